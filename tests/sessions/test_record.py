"""The packed record of a session, and tokens."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from gatelog.sessions.rules.lifetimes import Idle
from gatelog.sessions.rules.record import (
    ACTIVE,
    ENDED,
    Session,
    from_us,
    over_by_idling,
    packed,
    seen,
    to_us,
    tombstone,
)
from gatelog.sessions.rules.state import ActiveSession
from gatelog.sessions.rules.tokens import (
    MACHINE_TOKEN,
    is_machine_token,
    is_well_formed,
    machine_token_from_random,
    token_digest,
    token_from_random,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import session_record

moments = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001
    max_value=datetime(9000, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(
    session_id=st.uuids(),
    subject_id=st.uuids(),
    started_at=moments,
    expires_at=moments,
    roles=st.sets(st.from_regex(r"[a-zä-ü]{1,9}", fullmatch=True), max_size=4),
    authenticated=st.none() | moments,
    amr=st.sets(st.from_regex(r"[a-z]{1,9}", fullmatch=True), max_size=6),
)
def test_what_was_packed_is_read(
    *,
    session_id: UUID,
    subject_id: UUID,
    started_at: datetime,
    expires_at: datetime,
    roles: set[str],
    authenticated: datetime | None,
    amr: set[str],
) -> None:
    record = session_record(
        session_id=session_id,
        subject_id=subject_id,
        started_at=started_at,
        expires_at=expires_at,
        roles=tuple(roles),
        authenticated=authenticated,
        amr=tuple(amr),
    )
    session = Session(record)
    assert record[0] == ACTIVE
    assert session.session_id == session_id
    assert session.subject_id == subject_id
    assert session.started_at == started_at
    assert session.expires_at == expires_at
    assert session.roles == roles
    assert session.session_text == str(session_id)
    assert session.subject_text == str(subject_id)
    assert session.roles_text == ",".join(roles)
    shown = (session.started_at, session.expires_at, session.roles_text)
    assert session.texts() == (str(subject_id), str(session_id), *shown)
    assert session == Session(record)
    assert session.authenticated_at == (authenticated or started_at)
    assert session.amr == amr
    assert not session.is_token
    assert tombstone(record) == bytes([ENDED]) + to_us(expires_at).to_bytes(8, "big")
    assert session.absolute_at == expires_at
    assert session.idle_s is None
    assert session.quiet_until_us == session.expires_us, "nothing to do before it is over"
    assert not over_by_idling(record)
    assert seen(record, expires_at) == record, "it need not be used"


@given(
    started_at=moments,
    lifetime_s=st.floats(0.001, 1e8),
    limit_s=st.integers(1, 2**31 - 1),
    uses_s=st.lists(st.floats(0, 1e8), max_size=5),
)
def test_use_moves_a_record_as_it_moves_the_session(
    started_at: datetime, lifetime_s: float, limit_s: int, uses_s: list[float]
) -> None:
    idle = Idle(limit_s, started_at, started_at + timedelta(seconds=lifetime_s))
    session = ActiveSession(
        session_id=UUID(int=1),
        subject_id=UUID(int=2),
        token_digest=bytes(32),
        started_at=started_at,
        expires_at=idle.expires_at,
        roles=("admin",),
        idle=idle,
        amr=("pwd",),
    )
    record = packed(session)
    for use_s in uses_s:
        at, before = started_at + timedelta(seconds=use_s), session
        session, record = session.seen(at), seen(record, at)
        assert record == packed(session)
        assert before.expires_at <= session.expires_at <= session.absolute_at
        assert session.absolute_at == idle.absolute_at
    shown = Session(record)
    assert shown.expires_at == session.expires_at
    assert shown.absolute_at == session.absolute_at
    assert shown.idle_s == limit_s
    assert shown.roles == {"admin"}
    assert shown.amr == {"pwd"}
    assert over_by_idling(record) == (session.timeout == "idle_timeout")
    assert tombstone(record)[1:] == to_us(session.expires_at).to_bytes(8, "big")


@given(
    started_at=moments,
    lifetime_s=st.floats(0.001, 1e8),
    uses_s=st.lists(st.floats(0, 1e8), max_size=5),
)
def test_use_of_a_token_is_due_once_a_day_and_moves_its_end_nowhere(
    started_at: datetime, lifetime_s: float, uses_s: list[float]
) -> None:
    session = ActiveSession(
        session_id=UUID(int=1),
        subject_id=UUID(int=2),
        token_digest=bytes(32),
        started_at=started_at,
        expires_at=started_at + timedelta(seconds=lifetime_s),
        roles=("auditor",),
        is_token=True,
    )
    record = packed(session)
    assert Session(record).quiet_until_us == to_us(started_at), "that it was used, nobody knows"
    for use_s in uses_s:
        at = started_at + timedelta(seconds=use_s)
        session, record = session.seen(at), seen(record, at)
        assert record == packed(session)
        assert not session.renews(at), "twice on one day"
    if uses_s and max(uses_s) < lifetime_s:
        used_at = session.last_seen_at
        assert used_at == started_at + timedelta(seconds=max(uses_s))
        assert session.due_at.date() > used_at.date() or session.due_at == session.expires_at
    shown = Session(record)
    assert shown.is_token
    assert shown.idle_s is None
    assert shown.roles == {"auditor"}
    assert shown.expires_at == shown.absolute_at == session.expires_at
    assert not over_by_idling(record)
    assert session.timeout == "absolute_timeout"
    assert tombstone(record)[1:] == to_us(session.expires_at).to_bytes(8, "big")


@given(moments)
def test_microseconds_lose_nothing(moment: datetime) -> None:
    assert from_us(to_us(moment)) == moment
    assert to_us(moment + timedelta(microseconds=1)) == to_us(moment) + 1


@given(st.binary(min_size=32, max_size=32))
def test_a_token_is_43_characters_and_only_its_hash_is_kept(random: bytes) -> None:
    token = token_from_random(random)
    assert len(token) == 43
    assert is_well_formed(token)
    assert token_digest(token) == hashlib.sha256(token.encode()).digest()


@pytest.mark.parametrize(
    "text", ["", "a" * 42, "a" * 44, "a" * 42 + "=", "ä" * 43, "a" * 42 + "\n"]
)
def test_what_is_no_token(text: str) -> None:
    assert not is_well_formed(text)


def test_a_token_needs_all_its_bits() -> None:
    with pytest.raises(ValueError, match="32"):
        token_from_random(b"x" * 31)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 56), st.sampled_from("0Aaz_"))
def test_a_token_of_a_machine_is_found_by_its_form_and_checked_by_its_end(
    random: bytes, place: int, char: str
) -> None:
    token = machine_token_from_random(random)
    assert re.fullmatch(r"gatelog_[0-9A-Za-z]{49}", token)
    assert is_machine_token(token)
    assert not is_well_formed(token), "nor is it a session's"
    changed = token[:place] + char + token[place + 1 :]
    assert is_machine_token(changed) == (changed == token), "CRC-32 finds every single change"


def test_the_form_of_a_machines_token_is_pinned() -> None:
    assert machine_token_from_random(bytes(32)) == "gatelog_" + "0" * 43 + "3wHFWn"
    largest = machine_token_from_random(b"\xff" * 32)
    assert len(largest) == 57
    assert is_machine_token(largest)
    for text in ("", "gatelog_", largest + "\n", largest.replace("gatelog_", "gatelog-"), "ä" * 57):
        assert not is_machine_token(text)
    with pytest.raises(ValueError, match="32"):
        machine_token_from_random(b"x" * 31)


def test_the_page_says_how_a_scanner_checks_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102
    for number in range(100):
        token = machine_token_from_random(hashlib.sha256(bytes([number])).digest())
        assert names["is_token"](token)
        assert not names["is_token"](token[:-1] + ("0" if token[-1] != "0" else "1"))
    (pattern,) = re.findall(r"^\\bgatelog_.*$", page, re.MULTILINE)
    assert re.search(pattern, f'token = "{token}"')
    assert pattern == rf"\b{MACHINE_TOKEN}\b"
