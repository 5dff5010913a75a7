"""Events as bytes: pinned, decodable for ever, and nothing secret in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.rules.events import (
    DeviceAdded,
    FactorEnrolled,
    LinkMade,
    LinkUsed,
    LoginFailed,
    LoginsThrottled,
    MailAddressRemoved,
    MailAddressVerified,
    PasswordLocked,
    PasswordUnlocked,
    RecoveryAsked,
    RecoveryCodeUsed,
    RoleGranted,
    UserRegistered,
)
from gatelog.audit.rules.events import AuditRead
from gatelog.composer.rules.events import AppRecorded, CompositionBuilt, DraftChanged
from gatelog.errors import LogDamaged
from gatelog.ids import derived_event_id, uuid7
from gatelog.log.rules import events as ev
from gatelog.sessions.rules.events import (
    SessionEnded,
    SessionsRenewed,
    SessionStarted,
    TokenCreated,
)
from gatelog.sessions.rules.lifetimes import MOST_RENEWED
from gatelog.sessions.rules.state import PutSession, evolve

ID = UUID("01900000-0000-7000-8000-000000000001")
USER = UUID("00000000-0000-4000-8000-00000000000a")
ADMIN = UUID("00000000-0000-4000-8000-00000000000b")
SESSION = UUID("00000000-0000-4000-8000-00000000000c")
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
COMMON: dict[str, Any] = {"event_id": ID, "occurred_at": AT}

# What lies in logs already must be written and read like this for ever.
PINNED: dict[ev.Event, str] = {
    UserRegistered(**COMMON, subject_id=USER): (
        '{"type":"user_registered","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null}'
    ),
    LoginFailed(**COMMON, reason="unknown_login", sealed=b"sealed"): (
        '{"type":"login_failed","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":"c2VhbGVk",'
        '"subject_id":null,"reason":"unknown_login"}'
    ),
    LoginsThrottled(**COMMON, count=17, sealed=b"sealed"): (
        '{"type":"logins_throttled","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":"c2VhbGVk",'
        '"subject_id":null,"count":17}'
    ),
    PasswordLocked(**COMMON, subject_id=USER, reason="unknown_devices"): (
        '{"type":"password_locked","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,'
        '"reason":"unknown_devices"}'
    ),
    PasswordUnlocked(**COMMON, subject_id=USER, actor_id=ADMIN): (
        '{"type":"password_unlocked","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a",'
        '"actor_id":"00000000-0000-4000-8000-00000000000b"}'
    ),
    RecoveryAsked(**COMMON, sealed=b"sealed"): (
        '{"type":"recovery_asked","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":"c2VhbGVk",'
        '"subject_id":null}'
    ),
    LinkMade(**COMMON, subject_id=USER, what="reset"): (
        '{"type":"link_made","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,"what":"reset"}'
    ),
    LinkUsed(**COMMON, subject_id=USER, what="invitation"): (
        '{"type":"link_used","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,"what":"invitation"}'
    ),
    MailAddressVerified(**COMMON, subject_id=USER): (
        '{"type":"mail_address_verified","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null}'
    ),
    MailAddressRemoved(**COMMON, subject_id=USER): (
        '{"type":"mail_address_removed","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null}'
    ),
    SessionStarted(
        **COMMON,
        subject_id=USER,
        session_id=SESSION,
        token_digest=b"\xff" * 32,
        expires_at=AT,
        roles=("admin",),
        idle_s=900,
        amr=("pwd", "otp"),
    ): (
        '{"type":"session_started","v":3,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,'
        '"session_id":"00000000-0000-4000-8000-00000000000c",'
        '"token_digest":"//////////////////////////////////////////8=",'
        '"expires_at":"2026-01-02T03:04:05.678901Z","roles":["admin"],"idle_s":900,"seen_at":null,'
        '"authenticated_at":null,"amr":["pwd","otp"]}'
    ),
    TokenCreated(
        **COMMON,
        subject_id=USER,
        session_id=SESSION,
        token_digest=b"\x00" * 32,
        expires_at=AT,
        roles=("auditor",),
        authenticated_at=AT,
        amr=("pwd",),
    ): (
        '{"type":"token_created","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,'
        '"session_id":"00000000-0000-4000-8000-00000000000c",'
        '"token_digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",'
        '"expires_at":"2026-01-02T03:04:05.678901Z","roles":["auditor"],'
        '"authenticated_at":"2026-01-02T03:04:05.678901Z","amr":["pwd"]}'
    ),
    SessionsRenewed(**COMMON, token_digests=(b"\xff" * 32, b"\x00" * 32)): (
        '{"type":"sessions_renewed","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,"subject_id":null,'
        '"token_digests":["//////////////////////////////////////////8=",'
        '"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]}'
    ),
    SessionEnded(
        **COMMON,
        subject_id=USER,
        actor_id=ADMIN,
        session_id=SESSION,
        token_digest=b"\x00" * 32,
        reason="revoked",
    ): (
        '{"type":"session_ended","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a",'
        '"actor_id":"00000000-0000-4000-8000-00000000000b",'
        '"session_id":"00000000-0000-4000-8000-00000000000c",'
        '"token_digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","reason":"revoked"}'
    ),
    ev.LogPurged(**COMMON, up_to=1_048_576, before=AT): (
        '{"type":"log_purged","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":null,"up_to":1048576,"before":"2026-01-02T03:04:05.678901Z"}'
    ),
    AuditRead(**COMMON, subject_id=USER, what="events"): (
        '{"type":"audit_read","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,"what":"events"}'
    ),
    FactorEnrolled(**COMMON, subject_id=USER, factor_id=SESSION, factor="totp"): (
        '{"type":"factor_enrolled","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,'
        '"factor_id":"00000000-0000-4000-8000-00000000000c","factor":"totp"}'
    ),
    DeviceAdded(**COMMON, subject_id=USER, session_id=SESSION): (
        '{"type":"device_added","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,'
        '"session_id":"00000000-0000-4000-8000-00000000000c"}'
    ),
    RecoveryCodeUsed(**COMMON, subject_id=USER, count=9): (
        '{"type":"recovery_code_used","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,"count":9}'
    ),
    DraftChanged(**COMMON, subject_id=ADMIN, digest=b"d" * 32, data='["a"]'): (
        '{"type":"composer_draft_changed","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000b",'
        '"digest":"ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ=","data":"[\\"a\\"]"}'
    ),
    CompositionBuilt(**COMMON, build=2, digest=b"d" * 32, restored=1): (
        '{"type":"composition_built","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,"subject_id":null,"build":2,'
        '"digest":"ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ=","restored":1,"data":"[]"}'
    ),
    AppRecorded(**COMMON, subject_id=USER, session_id=SESSION, name="app.x", data='{"a":1}'): (
        '{"type":"app_recorded","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,"name":"app.x",'
        '"session_id":"00000000-0000-4000-8000-00000000000c","data":"{\\"a\\":1}"}'
    ),
    RoleGranted(**COMMON, subject_id=USER, role="admin"): (
        '{"type":"role_granted","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        '"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        '"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,"role":"admin"}'
    ),
}


@pytest.mark.parametrize(("event", "text"), PINNED.items(), ids=lambda item: str(item)[:24])
def test_the_bytes_are_pinned(event: ev.Event, text: str) -> None:
    assert ev.encode(event) == text.encode()
    assert ev.decode(text.encode()) == event


def test_every_type_has_a_stable_name_and_is_known_to_evolve() -> None:
    assert sorted(ev.EVENT_TYPES) == [
        "app_recorded",
        "audit_read",
        "composer_draft_changed",
        "composition_built",
        "credential_changed",
        "device_added",
        "factor_enrolled",
        "factor_removed",
        "link_made",
        "link_used",
        "log_purged",
        "login_failed",
        "logins_throttled",
        "mail_address_removed",
        "mail_address_verified",
        "password_locked",
        "password_unlocked",
        "recovery_asked",
        "recovery_code_used",
        "recovery_codes_made",
        "role_granted",
        "role_revoked",
        "session_ended",
        "session_started",
        "sessions_renewed",
        "token_created",
        "user_disabled",
        "user_enabled",
        "user_erased",
        "user_registered",
    ]
    for event in every_event():
        assert isinstance(evolve(event), tuple)
        assert ev.decode(ev.encode(event)) == event


def every_event() -> Iterator[ev.Event]:
    fields = COMMON | {
        "subject_id": USER,
        "session_id": SESSION,
        "token_digest": b"d" * 32,
        "expires_at": AT,
        "role": "admin",
        "what": "events",
        "count": 1,
        "up_to": 1,
        "before": AT,
        "token_digests": (b"d" * 32,),
        "factor_id": SESSION,
        "factor": "passkey",
        "digest": b"d" * 32,
        "build": 1,
        "name": "app.x",
    }
    for name, cls in ev.EVENT_TYPES.items():
        own = {key: value for key, value in fields.items() if key in cls.__struct_fields__}
        if name in {"log_purged", "sessions_renewed"}:
            del own["subject_id"]
        if name.startswith("link_"):
            own["what"] = "reset"
        if "reason" in cls.__struct_fields__:
            reasons = {"session_ended": "logout", "password_locked": "all_devices"}
            own["reason"] = reasons.get(name, "unknown_login")
        yield msgspec.convert(own | {"type": name}, cls)


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"type":"session_forgotten","v":1}',
        b'{"type":"user_enabled","v":1}',
        b'{"type":"user_enabled","v":2}',
        next(iter(PINNED.values())).encode()[:-1] + b',"more":1}',
        b"\xff",
    ],
)
def test_what_is_no_known_event_is_damage(entry: bytes) -> None:
    with pytest.raises(LogDamaged):
        ev.decode(entry)


def test_evolve_refuses_what_it_does_not_know() -> None:
    class Novelty(ev.Event, frozen=True, kw_only=True, tag="novelty"):
        pass

    with pytest.raises(LogDamaged):
        evolve(Novelty(**COMMON))


def test_old_versions_are_upcast_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ev.encode(LoginFailed(**COMMON, reason="unknown_login"))
    monkeypatch.setattr(LoginFailed, "VERSION", 3)
    with pytest.raises(LogDamaged, match="no upcaster"):
        ev.decode(old)
    monkeypatch.setitem(ev.UPCASTERS, ("login_failed", 1), lambda f: f | {"reason": "half"})
    monkeypatch.setitem(
        ev.UPCASTERS, ("login_failed", 2), lambda f: f | {"reason": "wrong_password"}
    )
    event = ev.decode(old)
    assert isinstance(event, LoginFailed)
    assert (event.v, event.reason, event.occurred_at) == (3, "wrong_password", AT)


def test_a_session_from_before_idle_timeouts_need_not_be_used() -> None:
    old = (
        b'{"type":"session_started","v":1,"event_id":"01900000-0000-7000-8000-000000000001",'
        b'"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":"c2VhbGVk",'
        b'"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,'
        b'"session_id":"00000000-0000-4000-8000-00000000000c",'
        b'"token_digest":"//////////////////////////////////////////8=",'
        b'"expires_at":"2026-01-02T03:04:05.678901Z","roles":["admin"]}'
    )
    event = ev.decode(old)
    assert event == SessionStarted(
        **COMMON,
        subject_id=USER,
        session_id=SESSION,
        token_digest=b"\xff" * 32,
        expires_at=AT,
        roles=("admin",),
        sealed=b"sealed",
    )
    (change,) = evolve(event)
    assert isinstance(change, PutSession)
    assert change.session.idle is None
    assert change.session.expires_at == change.session.absolute_at == AT


def test_a_session_from_before_amr_began_with_its_login_and_nobody_makes_up_how() -> None:
    old = (
        b'{"type":"session_started","v":2,"event_id":"01900000-0000-7000-8000-000000000001",'
        b'"occurred_at":"2026-01-02T03:04:05.678901Z","sealed":null,'
        b'"subject_id":"00000000-0000-4000-8000-00000000000a","actor_id":null,'
        b'"session_id":"00000000-0000-4000-8000-00000000000c",'
        b'"token_digest":"//////////////////////////////////////////8=",'
        b'"expires_at":"2026-02-02T03:04:05.678901Z","roles":[],"idle_s":900,'
        b'"seen_at":"2026-01-03T03:04:05.678901Z"}'
    )
    (change,) = evolve(ev.decode(old))
    assert isinstance(change, PutSession)
    assert change.session.authenticated_at == change.session.started_at == AT
    assert change.session.last_seen_at == AT.replace(day=3)
    assert change.session.amr == ()


def test_an_entry_of_renewals_has_room() -> None:
    digests = tuple(n.to_bytes(32, "big") for n in range(MOST_RENEWED))
    assert len(ev.encode(SessionsRenewed(**COMMON, token_digests=digests))) < 13_000


def test_an_entry_is_bounded() -> None:
    event = RoleGranted(**COMMON, subject_id=USER, role="r" * ev.MAX_ENTRY_BYTES)
    with pytest.raises(ValueError, match="at most"):
        ev.encode(event)


def test_the_leaf_hash_is_that_of_rfc_9162() -> None:
    assert ev.leaf_hash(b"").hex() == hashlib.sha256(b"\x00").hexdigest()
    # RFC 6962 test data: the leaf hash of the empty entry
    assert ev.leaf_hash(b"").hex().startswith("6e340b9cffb37a98")


def test_ids_are_version_7_and_derived_ids_are_too() -> None:
    first = uuid7(0x0123456789AB, bytes(range(10)))
    assert first.version == 7
    assert first.variant == "specified in RFC 4122"
    assert first.int >> 80 == 0x0123456789AB
    derived = [derived_event_id(first, index) for index in range(1000)]
    assert derived[0] == first
    assert len(set(derived)) == 1000
    assert all(one.version == 7 and one.int >> 80 == first.int >> 80 for one in derived)
    assert derived == [derived_event_id(first, index) for index in range(1000)]
