"""A long log with realistic skew, straight into PostgreSQL, in the real format.

Who does what and when follows from a seed; ids, keys and tokens follow from numbers, so nothing
has to be kept to know them. A few users make a hundredth of all events each, the others ten or so.
Two processes walk through the same history; each encodes, seals, hashes and copies every other
chunk of it. The projection, keys and credentials at the end are those that the log says.

What a session is known by follows from the position of its start, a user's id and key from the
user's number; heavy users have the lowest numbers.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import multiprocessing
import os
import random
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from io import BytesIO
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import msgspec
from gatelog.accounts.rules.events import (
    CredentialChanged,
    LoginFailed,
    RoleGranted,
    UserDisabled,
    UserEnabled,
    UserRegistered,
)
from gatelog.audit.store.marks import PARTITION, SPACING, Spacing
from gatelog.cli.output import progress_bar
from gatelog.config import Config
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.ids import uuid7
from gatelog.log.rules import events as ev
from gatelog.log.rules.events import leaf_hash
from gatelog.log.store.database import Database, connect
from gatelog.log.store.migrate import migrate
from gatelog.master_keys import master_key_id
from gatelog.privacy.rules import (
    NONCE_BYTES,
    Origin,
    Personal,
    WrappedKey,
    day_purpose,
    found_by,
    origin_of,
    origin_row,
    seal,
    subject_purpose,
    unwrap,
    wrap,
)
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.store.keys import KeyStore
from gatelog.sessions.rules.events import EndReason, SessionEnded, SessionStarted
from gatelog.sessions.rules.record import from_us, to_us

from tests.builders import MASTER_KEY, UNLIMITED

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

CHUNK = 1 << 14  # events that are copied at once
SMALL_PARTITION = 1 << 12
PROCESSES = 2
SPAN = timedelta(days=200)
LIFETIME_US = 86_400_000_000
SEED = 4
HEAVY_USERS = 10
FIRST_USERS = 100
OPENABLE_DAYS = 30  # of failed logins of names that nobody has
MASTER = urlsafe_b64decode(MASTER_KEY + "=")
CONFIG = Config(master_key=MASTER_KEY, registration="open", registration_tries=UNLIMITED)
DESCRIPTION = "history.json"
LOAD_SETTINGS = {
    "shared_buffers": "512MB",
    "synchronous_commit": "off",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "512MB",
    "autovacuum": "off",
}

AGENTS = [
    f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0"
    for system in ("X11; Linux x86_64", "Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X")
    for version in range(120, 140)
]
OFFICES = 50  # addresses that many share
HOMES = 200_000

# Shares of what begins something; ends of sessions follow from their starts.
REGISTRATIONS, STARTS, FAILURES, UNKNOWN, CHANGES = 0.152, 0.695, 0.085, 0.034, 0.033
HEAVY_SHARE = 0.13  # of starts and failures
LOGOUT_SHARE, LOGOUT_MEAN_US = 0.6, 4 * 3_600_000_000.0
ENDS_PER_EVENT = 0.41

Kind = Literal[
    "register", "start", "end", "fail", "unknown", "change", "grant", "disable", "enable"
]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Which history: how many events, until when."""

    events: int
    until_us: int

    @property
    def spacing(self) -> Spacing:
        """How far apart its marks are; a small log has small partitions."""
        return SPACING if self.events >= PARTITION else Spacing(partition=SMALL_PARTITION)

    @property
    def begin_us(self) -> int:
        return self.until_us - SPAN // timedelta(microseconds=1)


class Step(msgspec.Struct, frozen=True):
    """One event to be: its position, when, of which user; of an end, the start and the reason."""

    position: int
    kind: Kind
    at_us: int
    user: int
    start: int = 0
    reason: EndReason = "logout"


class World:
    """What the walk through the history knows in the end."""

    def __init__(self) -> None:
        self.registered_us: list[int] = []  # by the number of the user
        self.versions: dict[int, int] = {}
        self.admins: set[int] = set()
        self.disabled = -1
        self.active: list[tuple[int, int, int, EndReason]] = []  # end, start, user, reason
        self.started_us: dict[int, int] = {}

    @property
    def users(self) -> int:
        return len(self.registered_us)


def walk(history: History, world: World) -> Iterator[Step]:
    """Every event of the history, in order. The same for every call."""
    rng = random.Random(SEED)
    chance, ends = rng.random, world.active
    span = history.until_us - history.begin_us
    pace = span / (history.events * (1 - ENDS_PER_EVENT)) * 2
    at = float(history.begin_us)
    position = 0
    while position < history.events:
        if world.users >= FIRST_USERS:
            at += pace * chance()
        while ends and ends[0][0] <= at and position < history.events:
            end_us, start, user, reason = heapq.heappop(ends)
            del world.started_us[start]
            position += 1
            yield Step(position, "end", end_us, user, start, reason)
        if position < history.events:
            position += 1
            yield _begun(rng, world, position, int(at))


def _begun(rng: random.Random, world: World, position: int, at_us: int) -> Step:
    """Something that somebody does."""
    chance = rng.random
    what = chance() if world.users >= FIRST_USERS else STARTS
    heavy = chance() < HEAVY_SHARE
    user = int(chance() * (HEAVY_USERS if heavy else world.users))
    if what < STARTS:
        world.started_us[position] = at_us
        heapq.heappush(world.active, _end(rng, at_us, position, user))
        return Step(position, "start", at_us, user)
    if what < STARTS + REGISTRATIONS:
        world.registered_us.append(at_us)
        return Step(position, "register", at_us, world.users - 1)
    if what < STARTS + REGISTRATIONS + FAILURES:
        return Step(position, "fail", at_us, user)
    if what < STARTS + REGISTRATIONS + FAILURES + UNKNOWN:
        return Step(position, "unknown", at_us, -1)
    common = what < STARTS + REGISTRATIONS + FAILURES + UNKNOWN + CHANGES
    return _changed(world, position, at_us, user, common=common, heavy=heavy)


def _end(
    rng: random.Random, at_us: int, position: int, user: int
) -> tuple[int, int, int, EndReason]:
    """When and why a session will end."""
    after = int(rng.expovariate(1 / LOGOUT_MEAN_US)) + 1
    if rng.random() < LOGOUT_SHARE and after < LIFETIME_US:
        return at_us + after, position, user, "logout"
    late = int(rng.random() * 60_000_000)
    return at_us + LIFETIME_US + late, position, user, "absolute_timeout"


def _changed(
    world: World, position: int, at_us: int, user: int, *, common: bool, heavy: bool
) -> Step:
    """Something that changes a user; who was disabled is enabled before anybody else is."""
    if world.disabled >= 0:
        user, world.disabled = world.disabled, -1
        return Step(position, "enable", at_us, user)
    if common:
        world.versions[user] = world.versions.get(user, 1) + 1
        return Step(position, "change", at_us, user)
    if heavy:
        world.admins.add(user)
        return Step(position, "grant", at_us, user)
    world.disabled = user
    return Step(position, "disable", at_us, user)


# --- what follows from numbers


def _digest(what: bytes, number: int) -> bytes:
    return hashlib.sha256(b"%s %d" % (what, number)).digest()


@lru_cache(maxsize=100_000)
def user_id(number: int) -> UUID:
    """The id of the user with this number."""
    return UUID(bytes=_digest(b"user", number)[:16], version=4)


def user_key(number: int) -> bytes:
    return _digest(b"key of user", number)


def day_key(day: date) -> bytes:
    return _digest(b"key of day", day.toordinal())


def session_id(start: int) -> UUID:
    """The id of the session that started at this position."""
    return UUID(bytes=_digest(b"session", start)[:16], version=4)


def address_of(user: int, position: int) -> str:
    """An address that the user acts from: one of two at home, or an office."""
    number = int.from_bytes(_digest(b"address", position)[:4], "big")
    if number % 10 == 0:
        return f"198.51.100.{number // 10 % OFFICES}"
    home = (user * 2 + number % 2) * 7919 % HOMES
    return f"10.{home >> 16}.{home >> 8 & 255}.{home & 255}"


# --- one process's share


class Keys:
    """Seals and indexes with the keys that the database holds, wrapped."""

    def __init__(self, address_key: bytes) -> None:
        self._place = lru_cache(maxsize=HOMES)(lambda text: origin_of(text, None, address_key))
        self._login = lru_cache(maxsize=HOMES)(lambda text: found_by("login", text, address_key))

    def origin(self, personal: Personal) -> Origin:
        """What an event with this is found by."""
        place = self._place(personal.address)
        login = self._login(personal.login) if personal.login is not None else None
        return msgspec.structs.replace(place or Origin(), login=login)


_POSITION_2000 = to_us(datetime(2000, 1, 1, tzinfo=UTC))
_NULL = b"\xff\xff\xff\xff"
_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"
_pack_head = Struct(">hiqi16s").pack
_pack_tail = Struct(">iqi").pack
_pack_length = Struct(">i").pack
_VERSION = _pack_length(2) + b"\x00\x01"


class Rows:
    """Rows for four tables, in PostgreSQL's binary COPY format."""

    def __init__(self) -> None:
        self.events: list[bytes] = [_SIGNATURE]
        self.ids: list[bytes] = [_SIGNATURE]
        self.addresses: list[bytes] = [_SIGNATURE]
        self.origins: list[bytes] = [_SIGNATURE]

    def add(self, position: int, event: ev.Event, recorded_us: int) -> None:
        entry = ev.encode(event)
        event_id = event.event_id.bytes
        kind = event.type.encode()
        session: UUID | None = getattr(event, "session_id", None)
        self.events += (
            _pack_head(9, 8, position, 16, event_id),
            _pack_length(len(kind)),
            kind,
            _VERSION,
            _uuid(session),
            _uuid(event.subject_id),
            _pack_tail(8, recorded_us - _POSITION_2000, len(entry)),
            entry,
            b"\x00\x00\x00\x20",
            leaf_hash(entry),
        )
        self.ids.append(b"\x00\x02\x00\x00\x00\x10" + event_id + b"\x00\x00\x00\x08")
        self.ids.append(position.to_bytes(8, "big"))

    def add_origin(self, origin: Origin, position: int, person: UUID | None) -> None:
        index = origin.address or bytes(16)
        self.addresses.append(b"\x00\x03\x00\x00\x00\x10" + index + b"\x00\x00\x00\x08")
        self.addresses.append(position.to_bytes(8, "big"))
        self.addresses.append(_uuid(person))
        _, _, *indexes = origin_row(position, person, origin)
        self.origins.append(b"\x00\x06\x00\x00\x00\x08" + position.to_bytes(8, "big"))
        self.origins.append(_uuid(person))
        self.origins += [
            _NULL if index is None else b"\x00\x00\x00\x08" + index.to_bytes(8, "big", signed=True)
            for index in indexes
        ]


def _uuid(value: UUID | None) -> bytes:
    return _NULL if value is None else b"\x00\x00\x00\x10" + value.bytes


def _event(step: Step, rows: Rows, keys: Keys, indexed_from_us: int) -> ev.Event:
    """The event of a step, sealed; its address is indexed."""
    position, at = step.position, from_us(step.at_us)
    random_part = _digest(b"event", position)
    event_id = uuid7(step.at_us // 1000, random_part)
    if step.kind == "unknown":
        day, address = at.date(), address_of(position, position)
        personal = Personal(f"nobody{position}", address, AGENTS[position % len(AGENTS)])
        sealed = seal(personal, day_key(day), random_part[10:22], event_id, "login_failed")
        if step.at_us > indexed_from_us:
            rows.add_origin(keys.origin(personal), position, None)
        return LoginFailed(event_id=event_id, occurred_at=at, reason="unknown_login", sealed=sealed)
    subject_id = user_id(step.user)
    kind, tag = step.kind, _TAGS[step.kind]
    sealed_field: bytes | None = None
    if tag and step.reason != "absolute_timeout":
        address = address_of(step.user, position)
        login = None if kind == "end" else f"user{step.user}"
        personal = Personal(login, address, AGENTS[random_part[31] % len(AGENTS)])
        nonce = random_part[10 : 10 + NONCE_BYTES]
        sealed_field = seal(personal, user_key(step.user), nonce, event_id, tag)
        rows.add_origin(keys.origin(personal), position, subject_id)
    match kind:
        case "start":
            return SessionStarted(
                event_id=event_id,
                occurred_at=at,
                sealed=sealed_field,
                subject_id=subject_id,
                session_id=session_id(position),
                token_digest=_digest(b"token", position),
                expires_at=from_us(step.at_us + LIFETIME_US),
            )
        case "end":
            return SessionEnded(
                event_id=event_id,
                occurred_at=at,
                sealed=sealed_field,
                subject_id=subject_id,
                session_id=session_id(step.start),
                token_digest=_digest(b"token", step.start),
                reason=step.reason,
            )
        case "fail":
            return LoginFailed(
                event_id=event_id,
                occurred_at=at,
                sealed=sealed_field,
                subject_id=subject_id,
                reason="wrong_password",
            )
        case "grant":
            return RoleGranted(
                event_id=event_id, occurred_at=at, subject_id=subject_id, role="admin"
            )
    return _SIMPLE[kind](
        event_id=event_id, occurred_at=at, sealed=sealed_field, subject_id=subject_id
    )


Simple = type[UserRegistered | CredentialChanged | UserDisabled | UserEnabled]
_SIMPLE: dict[str, Simple] = {
    "register": UserRegistered,
    "change": CredentialChanged,
    "disable": UserDisabled,
    "enable": UserEnabled,
}
# What each kind is called in the log, where it has something sealed.
_TAGS: dict[str, str] = {
    "register": "user_registered",
    "start": "session_started",
    "end": "session_ended",
    "fail": "login_failed",
    "change": "credential_changed",
    "grant": "",
    "disable": "",
    "enable": "",
}


def load_share(
    dsn: str, history: History, address_key: bytes, share: int, done: Synchronized[int]
) -> None:
    """One process: every chunk of which it is the turn, then its share of the users."""
    asyncio.run(_load_share(dsn, history, address_key, share, done))


async def _load_share(
    dsn: str, history: History, address_key: bytes, share: int, done: Synchronized[int]
) -> None:
    keys, world, rows = Keys(address_key), World(), Rows()
    indexed_from = history.until_us - OPENABLE_DAYS * LIFETIME_US
    connection = await connect(dsn, role=None)
    for step in walk(history, world):
        if ((step.position - 1) // CHUNK) % PROCESSES != share:
            continue
        rows.add(step.position, _event(step, rows, keys, indexed_from), step.at_us)
        if step.position % CHUNK == 0 or step.position == history.events:
            await _copy(connection, rows)
            rows = Rows()
            with done.get_lock():
                done.value += (step.position - 1) % CHUNK + 1
    await _copy_users(connection, world, share)
    if share == 0:
        await _copy_sessions(connection, world)
    await connection.close()


async def _copy(connection: Connection, rows: Rows) -> None:
    for table, parts in (
        ("events", rows.events),
        ("event_ids", rows.ids),
        ("event_addresses", rows.addresses),
        ("event_origins", rows.origins),
    ):
        parts.append(_END)
        source = BytesIO(b"".join(parts))
        columns = _COLUMNS[table]
        await connection.copy_to_table(table, source=source, columns=columns, format="binary")


_COLUMNS = {
    "events": [
        *("position", "event_id", "type", "schema_version", "session_id", "subject_id"),
        *("recorded_at", "entry", "leaf_hash"),
    ],
    "event_ids": ["event_id", "position"],
    "event_addresses": ["address_index", "position", "subject_id"],
    "event_origins": ["position", "subject_id", "near", "middle", "wide", "login"],
}


async def _copy_users(connection: Connection, world: World, share: int) -> None:
    """Users, their wrapped keys and credentials; nobody knows the passwords."""
    key_id = master_key_id(MASTER)
    numbers = range(share, world.users, PROCESSES)
    await connection.copy_records_to_table(
        "users",
        columns=[
            *("subject_id", "registered_at", "disabled", "credential_version", "roles", "erased"),
        ],
        records=(
            (
                user_id(number),
                from_us(world.registered_us[number]),
                number == world.disabled,
                world.versions.get(number, 1),
                ["admin"] if number in world.admins else [],
                False,
            )
            for number in numbers
        ),
    )
    await connection.copy_records_to_table(
        "subject_keys",
        columns=["subject_id", "wrapped_key", "master_key_id"],
        records=((user_id(n), _wrapped(n), key_id) for n in numbers),
    )
    await connection.copy_records_to_table(
        "credentials",
        columns=["subject_id", "login", "password_hash", "changed_at"],
        records=(
            (user_id(n), f"user{n}", "$argon2id$none", from_us(world.registered_us[n]))
            for n in numbers
        ),
    )


def _wrapped(number: int) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return wrap(user_key(number), subject_purpose(user_id(number)), MASTER, nonce).wrapped


async def _copy_sessions(connection: Connection, world: World) -> None:
    await connection.copy_records_to_table(
        "active_sessions",
        columns=[
            *("token_digest", "session_id", "subject_id", "started_at", "expires_at", "roles"),
        ],
        records=(
            (
                _digest(b"token", start),
                session_id(start),
                user_id(user),
                from_us(world.started_us[start]),
                from_us(world.started_us[start] + LIFETIME_US),
                [],
            )
            for _, start, user, _ in world.active
        ),
    )


# --- all of it

_INDEXES = """
SELECT c.relname AS name, pg_get_indexdef(c.oid) AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY(ARRAY['events', 'event_addresses', 'event_origins']::regclass[])
      AND NOT i.indisprimary
ORDER BY 1
"""


async def _prepare(server: EmbeddedPostgres, history: History) -> tuple[bytes, list[str]]:
    """The schema with its partitions and keys, without its secondary indexes: (address key,
    how to make those)."""
    await migrate(server.owner_dsn())
    database = Database(server.app_dsn(), timeout_s=60, pool_size=1)
    await PersonalData(CONFIG, database).ready()
    ring = await KeyStore(database).ring()
    assert ring is not None
    address_key = unwrap(ring.address_key, b"address\x00", MASTER)
    await database.close()
    owner = await connect(server.owner_dsn(), role=None)
    if history.events < PARTITION:
        await _shrink_partitions(owner)
    top = 0
    while top <= history.events * 5 // 4:
        top = await owner.fetchval("SELECT add_event_partition()")
    indexes = await owner.fetch(_INDEXES)
    for index in indexes:
        await owner.execute(f'DROP INDEX "{index["name"]}"')
    await owner.close()
    return address_key, [index["definition"] for index in indexes]


async def _shrink_partitions(owner: Connection) -> None:
    """Small partitions for a small log, so that some of it can be purged."""
    for table in ("events", "event_addresses", "event_origins"):
        for first in (1, 1 + PARTITION):
            await owner.execute(f"DROP TABLE {table}_{first}")
    function = await owner.fetchval("SELECT pg_get_functiondef('add_event_partition'::regproc)")
    await owner.execute(function.replace(str(PARTITION), str(SMALL_PARTITION)))
    await owner.execute("UPDATE log_head SET partitioned_to = 1")


async def _finish(server: EmbeddedPostgres, history: History, indexes: list[str]) -> None:
    owner = await connect(server.owner_dsn(), role=None, timeout_s=3600)
    for definition in indexes:
        await owner.execute(definition.replace(" ON ONLY ", " ON "))
    await owner.execute(
        "UPDATE log_head SET position = $1, recorded_at ="
        " (SELECT recorded_at FROM events WHERE position = $1)",
        history.events,
    )
    await owner.execute("UPDATE origins_head SET traced_to = $1", history.events)
    until = from_us(history.until_us).date()
    days = [until - timedelta(days=back) for back in range(OPENABLE_DAYS)]
    wrapped = [_wrapped_day(day) for day in days]
    await owner.executemany(
        "INSERT INTO day_keys VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        [
            (day, key.wrapped, key.master_key_id, history.events)
            for day, key in zip(days, wrapped, strict=True)
        ],
    )
    await owner.execute("VACUUM (ANALYZE, PARALLEL 0)")
    await owner.close()


def _wrapped_day(day: date) -> WrappedKey:
    return wrap(day_key(day), day_purpose(day), MASTER, os.urandom(NONCE_BYTES))


def load(directory: Path, events: int) -> History:
    """Fill a new data directory with so many events; returns their history."""
    until = to_us(datetime.now(UTC)) // 1_000_000 * 1_000_000
    history = History(events=events, until_us=until)
    server = EmbeddedPostgres(directory, settings=LOAD_SETTINGS)
    server.start()
    try:
        address_key, indexes = asyncio.run(_prepare(server, history))
        _load_in_processes(server.owner_dsn(), history, address_key)
        asyncio.run(_finish(server, history, indexes))
    finally:
        server.stop()
    (directory / DESCRIPTION).write_bytes(msgspec.json.encode(history))
    return history


def _load_in_processes(dsn: str, history: History, address_key: bytes) -> None:
    context = multiprocessing.get_context("spawn")
    done: Synchronized[int] = context.Value("q", 0)
    shares = [
        context.Process(target=load_share, args=(dsn, history, address_key, number, done))
        for number in range(PROCESSES)
    ]
    for process in shares:
        process.start()
    with progress_bar("load") as progress:
        while any(process.is_alive() for process in shares):
            progress(done.value, history.events)
            time.sleep(0.2)
    if any(process.exitcode for process in shares):
        raise RuntimeError("a loading process failed")


def loaded(directory: Path) -> History | None:
    """The history that a directory holds already."""
    try:
        return msgspec.json.decode((directory / DESCRIPTION).read_bytes(), type=History)
    except FileNotFoundError:
        return None
