"""A kind of state of one's own: registered, decided on, written, checked and made anew.

Everything of it stands in this module: what docs/contributing.md says of adding one, done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.rules.acting import UserCommand
from gatelog.clock import new_event_id, new_random_id
from gatelog.errors import Conflict, LogDamaged
from gatelog.log.rules import events as ev
from gatelog.log.rules import kinds as rules
from gatelog.log.rules.kinds import Decision, Need, State, Trace, World
from gatelog.log.store import kinds as store
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.kinds import (
    Column,
    Kind,
    Projection,
    Read,
    Row,
    Table,
    Write,
    reading_statement,
    writing_statement,
)
from gatelog.log.store.rebuild import check, rebuild

from tests.builders import NOON, failure, registration
from tests.conftest import Dsns

# --- its rules


class NoteTaken(ev.UserEvent, frozen=True, kw_only=True, tag="note_taken"):
    """A user has written something down; a later note of the same number replaces it."""

    number: UUID
    words: tuple[str, ...]


class NoteLost(ev.UserEvent, frozen=True, kw_only=True, tag="note_lost"):
    number: UUID


class Note(msgspec.Struct, frozen=True):
    number: UUID
    subject_id: UUID
    words: tuple[str, ...]


class NoteOf(Need, frozen=True):
    number: UUID


class Notes(State):
    concerns = (NoteTaken, NoteLost)

    def __init__(self) -> None:
        self.known: dict[UUID, Note] = {}
        self.put: set[UUID] = set()
        self.lost: set[UUID] = set()

    def apply(self, event: ev.Event, position: int, trace: Trace | None) -> None:
        match event:
            case NoteTaken():
                self.known[event.number] = Note(event.number, event.subject_id, event.words)
                self.put.add(event.number)
                self.lost.discard(event.number)
            case NoteLost():
                self.known.pop(event.number, None)
                self.put.discard(event.number)
                self.lost.add(event.number)


class TakeNote(UserCommand, frozen=True, kw_only=True):
    event: NoteTaken

    @property
    def prepared(self) -> NoteTaken:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield NoteOf(self.event.number)

    def decide_permitted(self, world: World) -> Decision:
        note = world.of(Notes).known.get(self.event.number)
        if note is not None and note.subject_id != self.event.subject_id:
            raise Conflict("This is somebody else's note.")
        return Decision((self.event,))


class LoseNote(UserCommand, frozen=True, kw_only=True):
    event: NoteLost

    @property
    def prepared(self) -> NoteLost:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield NoteOf(self.event.number)

    def decide_permitted(self, world: World) -> Decision:
        return Decision((self.event,) if self.event.number in world.of(Notes).known else ())


def evolve(_: Note | None, event: NoteTaken | NoteLost) -> Note | None:
    if isinstance(event, NoteLost):
        return None
    return Note(event.number, event.subject_id, event.words)


def row_of(note: Note) -> tuple[object, ...]:
    return msgspec.structs.astuple(note)


def note_of(row: Row) -> Note:
    number, subject_id, words = row
    return Note(number, subject_id, tuple(words))


# --- its store

SCHEMA = """
CREATE TABLE notes (number uuid PRIMARY KEY, subject_id uuid NOT NULL, words text[] NOT NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO gatelog_app
"""
TABLE = Table(
    "notes",
    (Column("number", "uuid"), Column("subject_id", "uuid"), Column("words", "text[]")),
)


def enter(state: Notes, rows: Any) -> None:
    state.known.update({row[0]: note_of(row) for row in rows})


KIND = Kind(
    state=Notes,
    reads=(
        Read(
            need=NoteOf,
            expression="ARRAY(SELECT ROW(number, subject_id, words) FROM notes"
            " WHERE number = ANY({0}::uuid[]))",
            arguments=lambda needs: ([need.number for need in needs],),
            enter=enter,
        ),
    ),
    writes=(
        Write(
            name="notes_put",
            statement=TABLE.insert(replacing=True),
            arguments=lambda state: TABLE.arrays([row_of(state.known[n]) for n in state.put]),
        ),
        Write(
            name="notes_lost",
            statement=TABLE.delete(),
            arguments=lambda state: (list(state.lost),),
        ),
    ),
    projection=Projection(
        table=TABLE,
        concerns=Notes.concerns,
        key=lambda event: event.number,
        evolve=evolve,
        row=row_of,
        record=note_of,
        shown="number",
    ),
)


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kind is registered, until the test ends."""
    monkeypatch.setattr(store, "_kinds", dict(store._kinds))
    monkeypatch.setattr(store, "_reads", dict(store._reads))
    monkeypatch.setattr(rules, "_registered", dict(rules._registered))
    ev.register_events(NoteTaken, NoteLost)
    store.register_kinds(KIND)
    yield
    for name in ("note_taken", "note_lost"):
        del ev._registry.types[name]
    ev.register_events(*ev.EVENT_TYPES.values())
    for cached in (rules.concerned, reading_statement, writing_statement):
        cached.cache_clear()


@pytest.fixture
async def noted(database: Dsns, notes: None) -> Dsns:
    owner = await connect(database.owner, role=None)
    await owner.execute(SCHEMA)
    await owner.close()
    return database


def take(subject_id: UUID, number: UUID, *words: str) -> TakeNote:
    return TakeNote(
        event=NoteTaken(
            event_id=new_event_id(),
            occurred_at=NOON,
            subject_id=subject_id,
            number=number,
            words=words,
        )
    )


def lose(subject_id: UUID, number: UUID) -> LoseNote:
    event = NoteLost(
        event_id=new_event_id(), occurred_at=NOON, subject_id=subject_id, number=number
    )
    return LoseNote(event=event)


async def rows(dsn: str) -> dict[UUID, list[str]]:
    connection = await connect(dsn)
    try:
        return {row["number"]: row["words"] for row in await connection.fetch(TABLE.select())}
    finally:
        await connection.close()


async def test_it_is_decided_on_and_written_with_the_batch(noted: Dsns, appender: Appender) -> None:
    ada, bob = registration("ada"), registration("bob")
    await asyncio.gather(*(appender.submit(each) for each in (ada, bob)))
    mine, other = new_random_id(), new_random_id()
    outcomes = await asyncio.gather(
        appender.submit(take(ada.event.subject_id, mine, "buy", "milk")),
        appender.submit(take(bob.event.subject_id, mine, "not yours")),
        appender.submit(take(ada.event.subject_id, other)),
        appender.submit(lose(ada.event.subject_id, other)),
        appender.submit(failure()),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], Conflict)
    assert [type(each).__name__ for each in outcomes] == [
        "Recorded", "Conflict", "Recorded", "Recorded", "Recorded",
    ]  # fmt: skip
    assert await rows(noted.app) == {mine: ["buy", "milk"]}
    with pytest.raises(Conflict):  # read back, in a batch of its own
        await appender.submit(take(bob.event.subject_id, mine, "still not"))
    assert (await appender.submit(lose(ada.event.subject_id, other))).events == ()
    assert (await check(noted.app)).differences == []


async def test_it_is_checked_and_made_anew(noted: Dsns, appender: Appender) -> None:
    ada = registration("ada")
    await appender.submit(ada)
    numbers = [new_random_id() for _ in range(3)]
    for number in numbers:
        await appender.submit(take(ada.event.subject_id, number, "as", "it", "was"))
    connection = await connect(noted.app)
    await connection.execute("UPDATE notes SET words = '{}' WHERE number = $1", numbers[0])
    await connection.execute("DELETE FROM notes WHERE number = $1", numbers[1])
    await connection.close()
    assert [text.split(":")[0] for text in (await check(noted.app)).differences] == ["notes"] * 2
    report = await rebuild(noted.owner)
    assert (report.changed, report.rows["notes"]) == (3, 3)  # one is taken out and put in
    assert await rows(noted.app) == {number: ["as", "it", "was"] for number in numbers}
    assert (await check(noted.app)).differences == []


async def test_a_batch_pays_for_the_kinds_that_occur_in_it(notes: None) -> None:
    assert "notes" not in reading_statement((), 2)
    assert "notes" not in writing_statement((), 10)
    assert "active_sessions" not in reading_statement((NoteOf,), 2)


async def test_a_need_that_nobody_reads_is_a_defect() -> None:
    class Nothing(Need, frozen=True):
        pass

    with pytest.raises(RuntimeError):
        store.reading([Nothing()], 2)


async def test_without_registration_the_type_is_unknown() -> None:
    with pytest.raises(LogDamaged):
        ev.decode(ev.encode(take(new_random_id(), new_random_id()).event))
    with pytest.raises(ValueError, match="two types"):

        class Twin(ev.Event, frozen=True, kw_only=True, tag="login_failed"):
            pass

        ev.register_events(Twin)
