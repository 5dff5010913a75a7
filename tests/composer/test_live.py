"""Which build a process goes by: what memory says, else the primary, else nobody knows."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest
from gatelog.composer.rules.composition import EMPTY, Composition, CurrentUser, encode
from gatelog.composer.rules.events import (
    TOPIC,
    CompositionBuilt,
    announced_build,
    build_announced,
)
from gatelog.composer.service.live import Live
from gatelog.composer.store.builds import StoredBuild
from gatelog.config import Config
from gatelog.errors import DatabaseUnavailable, Unavailable
from gatelog.hosting.services import open_services
from gatelog.log.rules import events as ev
from gatelog.sessions.service.projector import Projector
from gatelog.sessions.store.announced import PrimaryAnnouncements
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import (
    ReplicaPlace,
    ReplicaState,
    announced_decoder,
    announced_encoder,
)
from gatelog.sessions.store.replica_writer import ReplicaWriter

from tests.composer.compositions import WALK, one
from tests.conftest import Clock, Dsns
from tests.waiting import until

FIRST, SECOND = WALK, one(CurrentUser())
CONTENTS = {1: FIRST, 2: SECOND}


def value(number: int) -> bytes:
    return announced_build(number, sha256(encode(CONTENTS[number])).digest())


class Stage:
    """What memory and the primary say, and how often a build was loaded."""

    def __init__(self) -> None:
        self.memory: bytes | None = None
        self.primary: dict[str, bytes] | None = {}
        self.loads: list[int] = []
        self.asked = 0
        self.live: Live[tuple[int, Composition]] = Live(
            peek=lambda: self.memory,
            primary=self,
            store=self,  # type: ignore[arg-type]
            make=self.make,
        )

    def says(self, number: int) -> bytes:
        return announced_encoder.encode({TOPIC: value(number)})

    async def find(self) -> dict[str, bytes]:
        self.asked += 1
        if self.primary is None:
            raise DatabaseUnavailable()
        return self.primary

    async def build(self, number: int) -> tuple[StoredBuild, Composition] | None:
        await asyncio.sleep(0)
        self.loads.append(number)
        content: Any = CONTENTS[number]
        digest = sha256(encode(content)).digest()
        return StoredBuild(number, digest, 1, Clock()(), None, None), content

    async def make(self, number: int, composition: Composition) -> tuple[int, Composition]:
        return number, composition


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_memory_is_asked_each_time_and_loaded_once(stage: Stage) -> None:
    stage.memory = stage.says(1)
    assert stage.live.current() is None
    assert await stage.live.now() == (1, FIRST)
    assert stage.live.current() == (1, FIRST)
    stage.memory = stage.says(2)
    assert stage.live.current() is None
    assert await asyncio.gather(*(stage.live.now() for _ in range(9))) == [(2, SECOND)] * 9
    assert stage.live.current() == (2, SECOND)
    assert stage.loads == [1, 2] and stage.asked == 0


async def test_without_memory_the_primary_is_asked_each_time(stage: Stage) -> None:
    stage.primary = {TOPIC: value(1)}
    assert await stage.live.now() == (1, FIRST)
    assert stage.live.current() is None  # never by what was true a moment ago
    stage.primary = {TOPIC: value(2)}
    assert await stage.live.now() == (2, SECOND)
    stage.primary = None
    with pytest.raises(DatabaseUnavailable):
        await stage.live.now()
    stage.memory = stage.says(2)
    assert await stage.live.now() == (2, SECOND)
    assert stage.loads == [1, 2]


async def test_before_the_first_build_there_is_nothing(stage: Stage) -> None:
    stage.memory = announced_encoder.encode({})
    assert await stage.live.now() == (0, EMPTY)
    assert stage.live.current() == (0, EMPTY)


async def test_a_build_that_is_not_what_was_announced_is_not_served(stage: Stage) -> None:
    stage.memory = announced_encoder.encode({TOPIC: announced_build(1, bytes(32))})
    for _ in range(2):
        with pytest.raises(Unavailable):
            await stage.live.now()
        assert stage.live.current() is None


async def test_who_waits_for_an_older_build_does_not_take_the_newer_ones_place(
    stage: Stage,
) -> None:
    stage.memory = stage.says(1)
    older = asyncio.create_task(stage.live.now())
    await asyncio.sleep(0)
    stage.memory = stage.says(2)
    newer = asyncio.create_task(stage.live.now())
    assert (await older, await newer) == ((1, FIRST), (2, SECOND))
    assert stage.live.current() == (2, SECOND)


def test_what_is_announced_is_a_number_and_a_digest() -> None:
    assert build_announced(announced_build(7, b"d" * 32)) == (7, b"d" * 32)
    assert build_announced(b"") == (0, b"")


# --- the replica


def test_an_announcement_is_in_the_replica_with_its_position(config: Config, clock: Clock) -> None:
    place = ReplicaPlace(config)
    writer = ReplicaWriter.create(place)
    writer.loaded(ReplicaState("e", 1, bytes(32), 0), {"other": b"x", TOPIC: b"one"})
    assert writer.entries == 0
    place.make_current(writer.path)
    reader = ReplicaReader(place, clock_ns=lambda: 1000)
    assert reader.announced() is None  # no lease
    writer.set_deadline(2000)
    packed = reader.announced()
    assert packed is not None
    assert announced_decoder.decode(packed) == {"other": b"x", TOPIC: b"one"}
    writer.apply([], 2, bytes(32), {TOPIC: b"two"})
    packed = reader.announced()
    assert packed is not None
    assert announced_decoder.decode(packed) == {"other": b"x", TOPIC: b"two"}
    writer.apply([], 3, bytes(32), {})
    assert reader.announced() == packed
    assert writer.purge(2**60, 100) == 0  # it is no session
    assert reader.announced() == packed
    writer.set_deadline(1000)
    assert reader.announced() is None
    reader.close()
    writer.close()


def built(number: int) -> CompositionBuilt:
    return CompositionBuilt(event_id=uuid4(), occurred_at=Clock()(), build=number, digest=b"d" * 32)


def test_an_announcement_comes_back_from_the_log() -> None:
    event = built(3)
    assert ev.decode(ev.encode(event)) == event
    assert event.announced == announced_build(3, b"d" * 32)


async def test_a_projector_brings_builds_to_memory(config: Config, database: Dsns) -> None:
    """By following the log, and by a load of a log that has them."""
    async with open_services(config, database.app) as services:
        composer = services.composing.composer
        await composer.replace(FIRST)
        await composer.build()

        def announced() -> int:
            packed = services.composing.peek()
            found = announced_decoder.decode(packed) if packed is not None else {}
            return build_announced(found.get(TOPIC, b""))[0]

        projector = Projector.configured(config, database.app, None)
        task = asyncio.create_task(projector.run())
        try:
            await until(lambda: announced() == 1, within_s=20)
            await composer.replace(SECOND)
            await composer.build()
            await until(lambda: announced() == 2, within_s=20)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_question_never_takes_an_older_answer(config: Config, database: Dsns) -> None:
    """Those who ask while a query is under way get the next one's answer."""
    async with open_services(config, database.app) as services:
        primary = services.composing.primary
        assert isinstance(primary, PrimaryAnnouncements)
        real = primary._database.acquire
        entered, go_on = asyncio.Event(), asyncio.Event()

        class Slow:
            def __init__(self) -> None:
                self.context = real()

            async def __aenter__(self) -> Any:
                entered.set()
                connection = await self.context.__aenter__()
                found = await connection.fetch("SELECT topic, value FROM announced")
                await go_on.wait()

                class Fetched:
                    async def fetch(self, _: str) -> Any:
                        return found

                return Fetched()

            async def __aexit__(self, *exc: Any) -> None:
                await self.context.__aexit__(*exc)

        primary._database.acquire = Slow  # type: ignore[method-assign,assignment]
        before = asyncio.create_task(primary.find())
        await entered.wait()
        primary._database.acquire = real  # type: ignore[method-assign]
        await services.composing.composer.replace(FIRST)
        await services.composing.composer.build()
        after = asyncio.create_task(primary.find())
        await asyncio.sleep(0)
        go_on.set()
        assert (await before, list(await after)) == ({}, [TOPIC])
