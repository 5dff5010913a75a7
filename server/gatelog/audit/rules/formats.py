"""Events as others read them: NDJSON, CSV, server-sent events, CEF and OCSF. Pure.

Rules:

- A line is an event, and nothing in an event can end its line or begin another: whoever logs in
  chooses their login name and their user agent.
- NDJSON, CSV and server-sent events hold the fields of ``ShownEvent`` under their own names.
- What is missing in an event is missing in every format (an empty cell in CSV).

Sources: RFC 4180 (CSV); OWASP, "CSV Injection" (cells that are no formulas); WHATWG HTML, section
9.2 (server-sent events); "ArcSight CEF Implementation Standard" (Micro Focus, SmartConnectors 8.4:
header, escaping, extension dictionary; its keys with their types as the CEF processor of
Elasticsearch reads them); the OCSF schema, version 1.3.0 (schema.ocsf.io: classes
``authentication``, ``account_change``, ``entity_management``, ``base_event``).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from ipaddress import IPv4Address, ip_address
from typing import Any
from uuid import UUID

import msgspec

from gatelog.audit.rules.sealed import SealedEvent
from gatelog.audit.rules.shown import ShownEvent
from gatelog.sessions.rules.record import to_us

COLUMNS = ShownEvent.__struct_fields__
PRODUCT = "Gatelog"
OCSF_VERSION = "1.3.0"
NOBODY = UUID(int=0)

AnyShown = ShownEvent | SealedEvent
_encoder = msgspec.json.Encoder()


# --- NDJSON


def ndjson(events: Sequence[AnyShown]) -> bytes:
    """One JSON object a line. JSON escapes every control character below U+0020."""
    return _encoder.encode_lines(events)


# --- CSV

# What spreadsheets take for the beginning of a formula, also in a quoted cell.
_FORMULA = frozenset("=+-@\t\r")
# Columns of text; the others are a number, ids and times. An event's type is a word of ours.
_FREE = [
    index for index, name in enumerate(COLUMNS) if ShownEvent.__annotations__[name] == "str | None"
]


def csv_rows(events: Sequence[AnyShown]) -> bytes:
    """One row an event, UTF-8, CRLF; a cell that would be a formula has an apostrophe before it."""
    rows = []
    for fields in msgspec.to_builtins(events):
        row = list(map(fields.get, COLUMNS))
        for column in _FREE:
            if (cell := row[column]) and cell[0] in _FORMULA:
                row[column] = f"'{cell}"
        rows.append(row)
    return _csv(rows)


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


CSV_HEADER = _csv([COLUMNS])


# --- server-sent events


def sse(event: ShownEvent) -> bytes:
    """The event as a server-sent event; its id is the position."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (
        event.position,
        event.type.encode(),
        _encoder.encode(event),
    )


# --- what security products need to know of each type


class Kind(msgspec.Struct, frozen=True):
    """How an event type is classified. ``severity_id`` is OCSF's: 1 informational, 2 low."""

    name: str
    class_uid: int
    activity_id: int
    activity_name: str
    severity_id: int = 1
    failure: bool = False


AUTHENTICATION, ACCOUNT_CHANGE, ENTITY_MANAGEMENT, BASE_EVENT = 3002, 3001, 3004, 0
_CLASS_NAMES = {
    AUTHENTICATION: "Authentication",
    ACCOUNT_CHANGE: "Account Change",
    ENTITY_MANAGEMENT: "Entity Management",
    BASE_EVENT: "Base Event",
}
_CATEGORY_NAMES = {3: "Identity & Access Management", 0: "Uncategorized"}
_SEVERITIES = {1: "Informational", 2: "Low"}
_CEF_SEVERITIES = {1: 3, 2: 5}  # of 0 to 10

KINDS = {
    "session_started": Kind("Login", AUTHENTICATION, 1, "Logon"),
    "login_failed": Kind("Failed login", AUTHENTICATION, 1, "Logon", 2, failure=True),
    "token_created": Kind("Token created", AUTHENTICATION, 99, "Create token"),
    "sessions_renewed": Kind("Sessions used", ENTITY_MANAGEMENT, 3, "Update"),
    "logins_throttled": Kind("Logins refused", AUTHENTICATION, 1, "Logon", 2, failure=True),
    "session_ended": Kind("Session ended", AUTHENTICATION, 2, "Logoff"),
    "user_registered": Kind("User registered", ACCOUNT_CHANGE, 1, "Create"),
    "user_enabled": Kind("User enabled", ACCOUNT_CHANGE, 2, "Enable"),
    "credential_changed": Kind("Password changed", ACCOUNT_CHANGE, 3, "Password Change"),
    "user_disabled": Kind("User disabled", ACCOUNT_CHANGE, 5, "Disable"),
    "password_locked": Kind("Password locked", ACCOUNT_CHANGE, 9, "Lock", 2),
    "recovery_asked": Kind("Link asked for", ACCOUNT_CHANGE, 4, "Password Reset"),
    "link_made": Kind("One-time link made", ACCOUNT_CHANGE, 4, "Password Reset"),
    "link_used": Kind("One-time link used", ACCOUNT_CHANGE, 4, "Password Reset"),
    "mail_address_verified": Kind("Mail address verified", ACCOUNT_CHANGE, 99, "Verify address"),
    "mail_address_removed": Kind("Mail address removed", ACCOUNT_CHANGE, 99, "Remove address"),
    "password_unlocked": Kind("Password unlocked", ACCOUNT_CHANGE, 99, "Unlock"),
    "factor_enrolled": Kind("Factor enrolled", ACCOUNT_CHANGE, 10, "MFA Factor Enable", 2),
    "factor_removed": Kind("Factor removed", ACCOUNT_CHANGE, 11, "MFA Factor Disable", 2),
    "recovery_codes_made": Kind("Recovery codes made", ACCOUNT_CHANGE, 99, "Recovery Codes", 2),
    "recovery_code_used": Kind("Recovery code used", ACCOUNT_CHANGE, 99, "Recovery Code Use", 2),
    "device_added": Kind("Login from a new device", ACCOUNT_CHANGE, 99, "Add Device", 2),
    "user_erased": Kind("User erased", ACCOUNT_CHANGE, 6, "Delete"),
    "role_granted": Kind("Role granted", ACCOUNT_CHANGE, 7, "Attach Policy", 2),
    "role_revoked": Kind("Role revoked", ACCOUNT_CHANGE, 8, "Detach Policy", 2),
    "audit_read": Kind("Audit log read", ENTITY_MANAGEMENT, 2, "Read"),
    "composer_draft_changed": Kind("Draft changed", ENTITY_MANAGEMENT, 3, "Update"),
    "composition_built": Kind("Composition built", ENTITY_MANAGEMENT, 3, "Update", 2),
    "app_recorded": Kind("Recorded", BASE_EVENT, 99, "Record"),
    "log_purged": Kind("Audit log purged", ENTITY_MANAGEMENT, 4, "Delete", 2),
}


def _kind(event: ShownEvent) -> Kind:
    """The class of an event; of a type that has none, OCSF's base event."""
    found = KINDS.get(event.type)
    return found or Kind(event.type.replace("_", " ").capitalize(), BASE_EVENT, 99, event.type)


def _ms(moment: datetime) -> int:
    """Milliseconds since the epoch."""
    return to_us(moment) // 1000


def _by_another(event: ShownEvent) -> bool:
    return event.actor_id is not None and event.actor_id != event.user_id


def _ip_version(address: str) -> int | None:
    """4 or 6; None for what is no IP address."""
    try:
        return 4 if isinstance(ip_address(address), IPv4Address) else 6
    except ValueError:
        return None


# --- CEF

# C0 and C1 controls, and what Unicode calls line ends: nothing that a line of text may hold.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HEADER = str.maketrans({"\\": r"\\", "|": r"\|", "\n": " ", "\r": " "})
_EXTENSION = str.maketrans({"\\": r"\\", "=": r"\=", "\n": r"\n", "\r": r"\r"})


def cef(event: ShownEvent, product_version: str) -> bytes:
    r"""The event as a line of CEF, version 0, without a syslog prefix.

    In the header ``\`` and ``|`` are escaped by a backslash; in the values of the extension ``\``
    and ``=``, with ``\n`` and ``\r`` for line ends. Other control characters are replaced by
    U+FFFD. ``src`` holds an IPv4 address only; one of IPv6 is in ``c6a2``, anything else in
    ``cs4``: nobody knows whether it is the name of a host.
    """
    kind = _kind(event)
    severity = str(_CEF_SEVERITIES[kind.severity_id])
    header = ("CEF:0", PRODUCT, PRODUCT, product_version, event.type, kind.name, severity)
    extension = " ".join(
        f"{key}={_cef_value(value)}"
        for key, value in _cef_fields(event, kind).items()
        if value is not None
    )
    head = "|".join(_CONTROL.sub("\ufffd", part.translate(_HEADER)) for part in header)
    return f"{head}|{extension}\n".encode()


def _cef_value(value: object) -> str:
    return _CONTROL.sub("\ufffd", str(value).translate(_EXTENSION))


def _cef_fields(event: ShownEvent, kind: Kind) -> dict[str, object]:
    by_another = _by_another(event)
    fields: dict[str, object] = {
        "rt": _ms(event.recorded_at),
        "start": _ms(event.occurred_at),
        "externalId": event.event_id,
        "cn1": event.position,
        "cn1Label": "position",
        "outcome": "failure" if kind.failure else "success",
        "reason": event.reason,
        "cnt": event.count,
        "duid": event.user_id,
        "duser": None if by_another else event.login,
        "suid": event.actor_id,
        "suser": event.login if by_another else None,
        "requestClientApplication": event.user_agent,
    }
    if event.address is not None:
        fields |= _cef_source(event.address)
    for key, label, value in _cef_labelled(event):
        if value is not None:
            fields |= {key: value, f"{key}Label": label}
    return fields


def _cef_labelled(event: ShownEvent) -> Iterator[tuple[str, str, object]]:
    """What has no field of its own in CEF, with the label that says what it is."""
    yield "cs1", "sessionId", event.session_id
    yield "cs2", "role", event.role
    yield "cs3", "read", event.what
    yield "cs5", "traceId", event.trace_id
    yield "cs6", "factor", event.factor and f"{event.factor} {event.factor_id}"
    yield "flexString1", "recordedAs", event.name
    yield "flexString2", "data", event.data
    yield "cn2", "purgedUpTo", event.up_to
    yield "cn2", "build", event.build
    yield "cn3", "sessions", event.sessions
    yield "cn3", "idleSeconds", event.idle_s
    yield "deviceCustomDate1", "expiresAt", event.expires_at and _ms(event.expires_at)
    yield "deviceCustomDate2", "purgedBefore", event.before and _ms(event.before)


def _cef_source(address: str) -> dict[str, object]:
    match _ip_version(address):
        case 4:
            return {"src": address}
        case 6:
            return {"c6a2": address, "c6a2Label": "Source IPv6 Address"}
        case _:
            return {"cs4": address, "cs4Label": "sourceAddress"}


# --- OCSF


def ocsf(event: ShownEvent, product_version: str) -> bytes:
    """The event as a line of JSON after the OCSF schema.

    Authentication (3002) for sessions and failed logins, Account Change (3001) for users, Entity
    Management (3004) for the log itself, Base Event (0) for the rest. Times are milliseconds
    since the epoch. Somebody whom nobody may know any more has the nil UUID.
    """
    kind = _kind(event)
    category_uid = kind.class_uid // 1000
    document = _present(
        class_uid=kind.class_uid,
        class_name=_CLASS_NAMES[kind.class_uid],
        category_uid=category_uid,
        category_name=_CATEGORY_NAMES[category_uid],
        activity_id=kind.activity_id,
        activity_name=kind.activity_name,
        type_uid=kind.class_uid * 100 + kind.activity_id,
        severity_id=kind.severity_id,
        severity=_SEVERITIES[kind.severity_id],
        status_id=2 if kind.failure else 1,
        status="Failure" if kind.failure else "Success",
        status_detail=event.reason,
        count=event.count,
        message=kind.name,
        time=_ms(event.occurred_at),
        metadata=_metadata(event, product_version),
        **_persons(event, kind),
        **_origin(event),
        **_about(event, kind),
    )
    return _encoder.encode(document) + b"\n"


def _metadata(event: ShownEvent, product_version: str) -> dict[str, Any]:
    return _present(
        version=OCSF_VERSION,
        product={"name": PRODUCT, "vendor_name": PRODUCT, "version": product_version},
        uid=str(event.event_id),
        sequence=event.position,
        event_code=event.type,
        logged_time=_ms(event.recorded_at),
        correlation_uid=event.trace_id,
    )


def _persons(event: ShownEvent, kind: Kind) -> dict[str, Any]:
    """``user`` is whom it is about, ``actor`` who did it when that is somebody else."""
    if kind.class_uid in (ENTITY_MANAGEMENT, BASE_EVENT):
        who = event.actor_id or event.user_id
        return {"actor": {"user": _user(who, event.login)}} if who else {}
    if not _by_another(event):
        return {"user": _user(event.user_id, event.login)}
    actor = {"user": _user(event.actor_id, event.login)}
    return {"user": _user(event.user_id, None), "actor": actor}


def _user(user_id: UUID | None, login: str | None) -> dict[str, Any]:
    if user_id is None and login is None:
        return {"uid": str(NOBODY), "type_id": 0, "type": "Unknown"}
    return _present(uid=None if user_id is None else str(user_id), name=login)


def _origin(event: ShownEvent) -> dict[str, Any]:
    endpoint = None
    if event.address is not None:
        endpoint = {"name" if _ip_version(event.address) is None else "ip": event.address}
    agent = None if event.user_agent is None else {"user_agent": event.user_agent}
    return _present(src_endpoint=endpoint, http_request=agent)


def _about(event: ShownEvent, kind: Kind) -> dict[str, Any]:
    """What a class asks for beside persons: the session and service, the policy, the entity."""
    if kind.class_uid == AUTHENTICATION:
        return _present(service={"name": PRODUCT}, session=_session(event))
    if event.type == "sessions_renewed":
        data = _present(sessions=event.sessions)
        return {"entity": {"name": "sessions", "type": "session", "data": data}}
    if event.build is not None or event.type == "composer_draft_changed":
        data = _present(build=event.build, changes=event.data)
        return {"entity": {"name": "composition", "type": "composition", "data": data}}
    if kind.class_uid == ENTITY_MANAGEMENT:
        before = None if event.before is None else _ms(event.before)
        data = _present(what=event.what, up_to=event.up_to, before=before)
        return {"entity": {"name": "audit log", "type": "log", "data": data}}
    if event.factor is not None:
        factor = {"factor_type": event.factor, "uid": str(event.factor_id)}
        return {"unmapped": {"auth_factors": [factor]}}
    if event.name is not None:
        return {"unmapped": {"name": event.name, "data": event.data}}
    if event.role is not None:
        return {"policy": {"name": event.role, "desc": "role"}}
    return {}


def _session(event: ShownEvent) -> dict[str, Any] | None:
    if event.session_id is None:
        return None
    expires = None if event.expires_at is None else _ms(event.expires_at)
    ended = event.reason if event.type == "session_ended" else None
    return _present(uid=str(event.session_id), expiration_time=expires, expiration_reason=ended)


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
