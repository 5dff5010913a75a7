"""Formats: whatever people call themselves, a line is one event, and a parser reads it back."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.rules.events import CredentialChanged, LoginFailed, RoleGranted, UserEnabled
from gatelog.audit.rules import sealed
from gatelog.audit.rules.formats import (
    COLUMNS,
    CSV_HEADER,
    KINDS,
    cef,
    csv_rows,
    ndjson,
    ocsf,
    sse,
)
from gatelog.audit.rules.sealed import sealed_event
from gatelog.audit.rules.shown import ShownEvent, shown
from gatelog.errors import LogDamaged
from gatelog.log.rules import events as ev
from gatelog.privacy.rules import Personal, person_of
from gatelog.sessions.rules.events import SessionEnded, SessionStarted
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
NASTY = st.one_of(
    TEXT,
    st.sampled_from(
        [
            *("=1+1", "+1", "-1", "@x", "\t=1", "\r\n=1", "a\r\nb", 'a"b', "a,b", "a|b=c\\", "\\"),
            *("x=y z=w", "\n", "\\n", "\u2028", "\x85", "\x00", "\x1b[31m", "' =", "\\=", "\\|"),
            *("=", ""),
        ]
    ),
)
MOMENTS = st.datetimes(
    datetime(2020, 1, 1),  # noqa: DTZ001
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
POSITIVE = st.integers(1, 2**62)
VERSION = "1.2|3\\4"


def any_event(cls: type[ev.Event]) -> st.SearchStrategy[Any]:
    """An event of this type with every field that it can have."""
    hints = {field.name: field.type for field in msgspec.structs.fields(cls)}
    known: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(
        ("occurred_at", "expires_at", "before"), MOMENTS
    ) | {
        "v": st.just(cls.VERSION),
        "up_to": POSITIVE,
        "count": POSITIVE,
        "build": POSITIVE,
        "restored": st.none() | POSITIVE,
        "idle_s": st.none() | st.integers(1, 2**31 - 1),
    }
    return st.builds(
        cls, **{name: known[name] if name in known else st.from_type(hints[name]) for name in hints}
    )


EVENTS = st.one_of([any_event(cls) for cls in ev.EVENT_TYPES.values()])
PERSONS = st.builds(
    Personal, st.none() | NASTY, st.none() | NASTY | st.ip_addresses().map(str), st.none() | NASTY
)
SHOWN = st.builds(shown, st.integers(1, 2**62), MOMENTS, EVENTS, st.none() | PERSONS)


# --- what is left sealed


@given(position=st.integers(1, 2**62), at=MOMENTS, event=EVENTS)
def test_a_sealed_event_is_shown_as_one_that_nobody_opened(
    position: int, at: datetime, event: ev.Event
) -> None:
    """The short way gives the same bytes as decoding, in both formats."""
    short, long = sealed_event(position, at, ev.encode(event)), shown(position, at, event)
    assert ndjson([short]) == ndjson([long])
    assert csv_rows([short]) == csv_rows([long])


def test_every_field_but_what_is_personal_has_its_place_in_a_sealed_event() -> None:
    opened = {"login", "address", "user_agent", "trace_id"}
    fields = [name for name in ShownEvent.__struct_fields__ if name not in opened]
    assert list(sealed.SealedEvent.__struct_fields__) == fields


@pytest.mark.parametrize(
    "entry",
    [
        *(b"", b"{", b"[]", b'{"type":"unheard_of","v":1}', b'{"type":"user_erased","v":1}'),
        b'{"type":"user_erased","v":99,"event_id":"x","occurred_at":"y"}',
    ],
)
def test_a_damaged_entry_is_not_shown(entry: bytes) -> None:
    with pytest.raises(LogDamaged):
        sealed_event(1, datetime(2026, 1, 1, tzinfo=UTC), entry)


def test_an_old_version_is_upcast(monkeypatch: pytest.MonkeyPatch) -> None:
    event = UserEnabled(
        event_id=UUID(int=1), occurred_at=datetime(2026, 1, 1, tzinfo=UTC), subject_id=UUID(int=2)
    )
    old = ev.encode(event).replace(b'"v":1', b'"v":0').replace(b"subject_id", b"who")
    monkeypatch.setitem(
        ev.UPCASTERS,
        ("user_enabled", 0),
        lambda fields: {("subject_id" if k == "who" else k): v for k, v in fields.items()},
    )
    assert sealed_event(1, event.occurred_at, old) == shown(1, event.occurred_at, event)


# --- NDJSON and CSV


@given(events=st.lists(SHOWN, max_size=5))
def test_ndjson_reads_back(events: list[ShownEvent]) -> None:
    text = ndjson(events)
    lines = text.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(events)
    assert [msgspec.json.decode(line, type=ShownEvent) for line in lines] == events
    for line, event in zip(lines, events, strict=True):
        fields = json.loads(line)
        assert (fields.get("login"), fields.get("user_agent")) == (event.login, event.user_agent)
        assert None not in fields.values()


def defused(cell: str) -> str:
    return f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t", "\r"} and cell else cell


@given(events=st.lists(SHOWN, max_size=5))
def test_csv_reads_back_and_holds_no_formula(events: list[ShownEvent]) -> None:
    text = (CSV_HEADER + csv_rows(events)).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == len(events)
    for row, event in zip(rows, events, strict=True):
        fields = msgspec.to_builtins(event)
        assert list(row) == list(COLUMNS)
        for name, cell in row.items():
            assert cell == defused(str(fields.get(name, "")))
            assert cell[:1] not in {"=", "+", "-", "@", "\t", "\r"} or cell == ""
    assert text.startswith("position,event_id,type,recorded_at,")


def test_csv_lines_end_as_rfc_4180_says() -> None:
    event = ShownEvent(
        position=7,
        event_id=UUID(int=1),
        type="login_failed",
        recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
        occurred_at=datetime(2026, 1, 1, 0, 0, 0, 5, tzinfo=UTC),
        login='a "b",\r\nc',
    )
    assert csv_rows([event, event]) == 2 * (
        b"7,00000000-0000-0000-0000-000000000001,login_failed,2026-01-01T00:00:00Z,"
        b'2026-01-01T00:00:00.000005Z,,,,,,,,,,,,,,,"a ""b"",\r\nc",,,,,,\r\n'
    )


# --- server-sent events


@given(event=SHOWN)
def test_a_server_sent_event_is_one_event(event: ShownEvent) -> None:
    """Lines as the standard ends them: by CR LF, LF or CR. No field of data can end one."""
    text = sse(event).decode()
    assert text.endswith("\n\n")
    lines = text[:-2].replace("\r\n", "\n").replace("\r", "\n").split("\n")
    named = dict(line.split(": ", 1) for line in lines)
    assert list(named) == ["id", "event", "data"]
    assert (named["id"], named["event"]) == (str(event.position), event.type)
    assert msgspec.json.decode(named["data"], type=ShownEvent) == event


# --- CEF


# Of the extension dictionary: those that need a label, and those that have a meaning.
FAILURES = {"login_failed", "logins_throttled"}
USER_DEFINED = {
    *("c6a2", "cn1", "cn2", "cn3", "cs1", "cs2", "cs3", "cs4", "cs5", "cs6"),
    *("deviceCustomDate1", "deviceCustomDate2", "flexString1", "flexString2"),
}
CEF_KEYS = {
    *("rt", "start", "externalId", "outcome", "reason", "duid", "duser", "suid", "suser", "src"),
    *("requestClientApplication", "cnt", *USER_DEFINED, *(f"{key}Label" for key in USER_DEFINED)),
}


def parse_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """A line of CEF taken apart, character by character."""
    header: list[str] = [""]
    at = 0
    while len(header) < 8:
        if line[at] == "\\":
            assert line[at + 1] in "\\|"
            header[-1] += line[at + 1]
            at += 2
        elif line[at] == "|":
            header.append("")
            at += 1
        else:
            header[-1] += line[at]
            at += 1
    header.pop()
    fields: dict[str, str] = {}
    key, value, rest = "", "", line[at:]
    position = 0
    while position < len(rest):
        char = rest[position]
        if char == "\\":
            escaped = rest[position + 1]
            value += {"\\": "\\", "=": "=", "n": "\n", "r": "\r"}[escaped]
            position += 2
            continue
        if char == "=":
            before, _, name = value.rpartition(" ")
            if key:
                fields[key] = before
            key, value = name, ""
        else:
            value += char
        position += 1
    fields[key] = value
    return header, fields


def cleaned(text: str) -> str:
    """Control characters other than line ends have no place in CEF."""
    kept = "\n\r"
    return "".join(
        "\ufffd" if char not in kept and (ord(char) < 32 or 127 <= ord(char) < 160) else char
        for char in text
    ).translate({0x2028: "\ufffd", 0x2029: "\ufffd"})


@given(event=SHOWN)
def test_cef_reads_back(event: ShownEvent) -> None:
    line = cef(event, VERSION).decode()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    header, fields = parse_cef(line[:-1])
    name, severity = header[5], int(header[6])
    assert header[:5] == ["CEF:0", "Gatelog", "Gatelog", VERSION, event.type]
    assert name and 0 <= severity <= 10
    assert int(fields["cn1"]) == event.position and fields["cn1Label"] == "position"
    assert fields["externalId"] == str(event.event_id)
    assert moment(fields["rt"]) == event.recorded_at.replace(
        microsecond=event.recorded_at.microsecond // 1000 * 1000
    )
    by_another = event.actor_id not in (None, event.user_id)
    login = fields.get("suser" if by_another else "duser")
    assert login == (None if event.login is None else cleaned(event.login))
    agent = fields.get("requestClientApplication")
    assert agent == (None if event.user_agent is None else cleaned(event.user_agent))
    address = [fields[key] for key in ("src", "c6a2", "cs4") if key in fields]
    assert address == ([] if event.address is None else [cleaned(event.address)])
    factor = event.factor and f"{event.factor} {event.factor_id}"
    assert fields.get("cs6") == factor
    assert fields.get("cs5") == (None if event.trace_id is None else cleaned(event.trace_id))
    assert fields.get("duid") == (str(event.user_id) if event.user_id else None)
    assert fields["outcome"] == ("failure" if event.type in FAILURES else "success")
    number = event.sessions or event.idle_s
    assert fields.get("cn3") == (None if number is None else str(number))
    assert fields.get("cnt") == (None if event.count is None else str(event.count))
    number = event.build if event.up_to is None else event.up_to
    assert fields.get("cn2") == (None if number is None else str(number))
    assert fields.get("flexString1") == (None if event.name is None else cleaned(event.name))
    assert fields.get("flexString2") == (None if event.data is None else cleaned(event.data))
    for key, told in (("deviceCustomDate1", event.expires_at), ("deviceCustomDate2", event.before)):
        found = moment(fields[key]) if key in fields else None
        assert found == (told and told.replace(microsecond=told.microsecond // 1000 * 1000))
    for key in USER_DEFINED:
        assert (key in fields) == (f"{key}Label" in fields)
    assert set(fields) <= CEF_KEYS


def moment(ms: str | int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(ms))


@pytest.mark.parametrize(
    ("address", "key"),
    [("192.0.2.1", "src"), ("2001:db8::1", "c6a2"), ("somewhere", "cs4"), ("", "cs4")],
)
def test_cef_addresses_stand_where_their_kind_belongs(address: str, key: str) -> None:
    """src is of IPv4 alone in version 0."""
    event = ShownEvent(
        position=1,
        event_id=UUID(int=1),
        type="session_started",
        recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        address=address,
    )
    assert parse_cef(cef(event, "1").decode()[:-1])[1][key] == address


# --- OCSF


@given(event=SHOWN)
def test_ocsf_is_of_its_class(event: ShownEvent) -> None:
    line = ocsf(event, VERSION)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    document = json.loads(line)
    kind = KINDS[event.type]
    assert document["class_uid"] == kind.class_uid
    # what an application records of its own is of no category (OCSF 1.3, base_event)
    category = 0 if event.type == "app_recorded" else 3
    assert document["category_uid"] == kind.class_uid // 1000 == category
    assert document["type_uid"] == kind.class_uid * 100 + document["activity_id"]
    assert document["severity_id"] in {1, 2}
    assert moment(document["time"]) <= event.occurred_at < moment(document["time"] + 1)
    assert document["metadata"]["version"] == "1.3.0"
    assert document["metadata"]["product"] == {
        "name": "Gatelog",
        "vendor_name": "Gatelog",
        "version": VERSION,
    }
    assert document["metadata"]["sequence"] == event.position
    assert document["metadata"]["uid"] == str(event.event_id)
    assert document["status_id"] == (2 if event.type in FAILURES else 1)
    assert document["metadata"].get("correlation_uid") == event.trace_id
    assert document.get("count") == event.count
    assert document.get("http_request", {}).get("user_agent") == event.user_agent
    endpoint = document.get("src_endpoint", {})
    assert (endpoint.get("ip") or endpoint.get("name") or None) == (event.address or None)
    if kind.class_uid in {3001, 3002}:
        assert set(document["user"]) & {"uid", "name"}
    if kind.class_uid == 3002:
        assert document["service"]["name"] == "Gatelog"  # one of service and dst_endpoint is needed
        session = document.get("session", {}).get("uid")
        assert session == (str(event.session_id) if event.session_id else None)
    if kind.class_uid == 3004:
        entity, data = document["entity"], document["entity"].get("data", {})
        names = {"sessions_renewed": "sessions", "composer_draft_changed": "composition"}
        names["composition_built"] = "composition"
        assert entity["name"] == names.get(event.type, "audit log")
        assert (data.get("build"), data.get("changes")) == (event.build, event.data)
        assert (data.get("what"), data.get("up_to")) == (event.what, event.up_to)
        assert data.get("sessions") == event.sessions
        who = event.actor_id or event.user_id
        assert document.get("actor") == ({"user": ANY} if who else None)


def one(cls: type[ev.Event], **fields: Any) -> ShownEvent:
    event = msgspec.convert(
        {"event_id": str(UUID(int=1)), "occurred_at": "2026-01-01T00:00:00Z"} | fields, cls
    )
    assert person_of(event) in {UUID(int=5), UUID(int=6), None}
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return shown(1, at, event, Personal("ada", "192.0.2.1", "curl"))


USER, OTHER, SESSION = str(UUID(int=5)), str(UUID(int=6)), str(UUID(int=7))


def test_who_is_who_in_ocsf() -> None:
    """The login is of who acted; without anybody known, nobody is named."""
    own = json.loads(ocsf(one(CredentialChanged, subject_id=USER), "1"))
    assert own["user"] == {"uid": USER, "name": "ada"}
    assert "actor" not in own
    granted = one(RoleGranted, subject_id=USER, actor_id=OTHER, role="admin")
    other = json.loads(ocsf(granted, "1"))
    assert other["user"] == {"uid": USER}
    assert other["actor"] == {"user": {"uid": OTHER, "name": "ada"}}
    assert other["policy"]["name"] == "admin"
    failed = one(LoginFailed, reason="unknown_login")
    assert json.loads(ocsf(failed, "1"))["user"] == {"name": "ada"}
    forgotten = msgspec.structs.replace(failed, login=None)
    assert json.loads(ocsf(forgotten, "1"))["user"]["uid"] == str(UUID(int=0))


@pytest.mark.parametrize(
    ("cls", "fields", "type_uid"),
    [
        (SessionStarted, {"expires_at": "2026-01-02T00:00:00Z"}, 300201),
        (SessionEnded, {"reason": "logout"}, 300202),
    ],
)
def test_sessions_in_ocsf(cls: type[ev.Event], fields: dict[str, Any], type_uid: int) -> None:
    event = one(cls, subject_id=USER, session_id=SESSION, token_digest="", **fields)
    document = json.loads(ocsf(event, "1"))
    assert document["type_uid"] == type_uid
    assert document["session"]["uid"] == SESSION
    assert document["session"].get("expiration_reason") == fields.get("reason")
    expires = document["session"].get("expiration_time")
    assert (expires is not None) == ("expires_at" in fields)


def test_every_type_is_classified() -> None:
    assert set(KINDS) == set(ev.EVENT_TYPES)


def test_a_type_of_later_is_a_base_event() -> None:
    event = msgspec.structs.replace(one(UserEnabled, subject_id=USER), type="moon_landed")
    document = json.loads(ocsf(event, "1"))
    assert (document["class_uid"], document["category_uid"], document["type_uid"]) == (0, 0, 99)
    assert document["activity_name"] == "moon_landed"
    assert b"|moon_landed|Moon landed|" in cef(event, "1")
