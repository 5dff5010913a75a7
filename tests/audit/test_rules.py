"""Events as they are shown; and the event reference tells what the code does."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.rules.events import FailureReason, LockedFor
from gatelog.audit.rules.events import AuditedRead
from gatelog.audit.rules.shown import ShownEvent, shown
from gatelog.ids import audit_read_id
from gatelog.log.rules import events as ev
from gatelog.privacy.rules import Personal
from gatelog.sessions.rules.events import EndReason

REFERENCE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
COMMON = ({"type", *ev.Event.__struct_fields__}) - {"subject_id"}  # told with each type
AT = datetime(2026, 1, 2, tzinfo=UTC)
LATER = datetime(2026, 1, 3, tzinfo=UTC)
REASONS = {"session_ended": "logout", "password_locked": "all_devices"}
USER, ADMIN, SESSION = UUID(int=1), UUID(int=2), UUID(int=3)


def table(heading: str) -> list[list[str]]:
    """The rows of the table that begins with this line, cell by cell."""
    rows = REFERENCE.partition(f"{heading}\n")[2].splitlines()[1:]
    found = []
    for row in rows:
        if not row.startswith("|"):
            break
        found.append([cell.strip() for cell in row.strip("|").split("|")])
    return found


def code(cell: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", cell))


def test_the_reference_has_every_type_and_field() -> None:
    rows = table("| type | fields of its own | written when |")
    documented = {next(iter(code(name))): code(fields) for name, fields, _ in rows}
    assert documented == {
        name: set(cls.__struct_fields__) - COMMON for name, cls in ev.EVENT_TYPES.items()
    }
    common = {name for row in table("| field | meaning |") for name in code(row[0])}
    assert common == COMMON


def test_the_reference_has_every_word() -> None:
    """Each reason, and each thing that can be read, where its event is described."""
    described = {
        next(iter(code(name))): code(when)
        for name, _, when in table("| type | fields of its own | written when |")
    }
    assert set(get_args(EndReason)) <= described["session_ended"]
    assert set(get_args(FailureReason)) <= described["login_failed"]
    assert set(get_args(LockedFor)) <= described["password_locked"]
    assert set(get_args(AuditedRead)) <= described["audit_read"]


def test_the_reference_has_every_field_that_is_shown() -> None:
    after = REFERENCE.partition("What is shown of an event")[2]
    rows = [line for line in after.splitlines() if line.startswith("| `")]
    table_end = next(n for n, line in enumerate(rows) if "`login`" in line)
    found = {name for row in rows[: table_end + 1] for name in code(row.split("|")[1])}
    assert found == set(ShownEvent.__struct_fields__)


@pytest.mark.parametrize("name", sorted(ev.EVENT_TYPES))
def test_nothing_of_an_event_is_left_out(name: str) -> None:
    """But its version, its token's digest and the roles that the user had then."""
    values = {
        "event_id": UUID(int=9),
        "occurred_at": AT,
        "subject_id": USER,
        "actor_id": ADMIN,
        "session_id": SESSION,
        "token_digest": bytes(32),
        "expires_at": LATER,
        "reason": REASONS.get(name, "wrong_password"),
        "role": "auditor",
        "roles": ("auditor",),
        "what": "reset" if name.startswith("link_") else "events",
        "count": 3,
        "up_to": 7,
        "before": LATER,
        "idle_s": 900,
        "token_digests": (bytes(32), b"d" * 32),
        "factor_id": UUID(int=8),
        "factor": "totp",
        "digest": bytes(32),
        "build": 3,
        "name": "app.order_placed",
        "data": '{"amount":7}',
    }
    cls = ev.EVENT_TYPES[name]
    fields = {key: value for key, value in values.items() if key in cls.__struct_fields__}
    if name in {"log_purged", "logins_throttled", "sessions_renewed"}:
        fields["subject_id"] = None
    event = msgspec.convert(fields | {"type": name}, cls)
    personal = Personal("alice", "192.0.2.1", "firefox", bytes(range(16)))
    found = msgspec.to_builtins(shown(5, LATER, event, personal))
    assert found.pop("position") == 5
    assert found.pop("type") == name
    assert found.pop("recorded_at") == "2026-01-03T00:00:00Z"
    assert [found.pop(key) for key in ("login", "address", "user_agent", "trace_id")] == [
        "alice",
        "192.0.2.1",
        "firefox",
        "000102030405060708090a0b0c0d0e0f",
    ]
    hidden = {"token_digest", "token_digests", "roles", "digest"}
    expected = {
        "user_id" if key == "subject_id" else key: value
        for key, value in fields.items()
        if key not in hidden and value is not None
    }
    if name == "sessions_renewed":
        expected["sessions"] = 2
    assert found == msgspec.to_builtins(expected)


def test_one_id_for_a_reader_and_a_minute() -> None:
    minute = int(AT.timestamp()) // 60
    one = audit_read_id(USER, minute)
    assert one == audit_read_id(USER, minute)
    assert one.version == 7
    assert one.int >> 80 == int(AT.timestamp()) * 1000
    assert len({one, audit_read_id(ADMIN, minute), audit_read_id(USER, minute + 1)}) == 3
