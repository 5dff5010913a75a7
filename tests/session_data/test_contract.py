"""What every storage of aiohttp-session has to do, and where the others fail what ours does.

A storage that fails a case is named in it (``fails``), with the reason; the test fails when it no
longer does (``xfail_strict``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gatelog.config import Config

from tests.conftest import Dsns
from tests.session_data.storages import ALL, COOKIE, OURS, REDIS, SIMPLE, World, world_of


@pytest.fixture(params=ALL)
async def world(
    request: pytest.FixtureRequest, config: Config, database: Dsns, tmp_path: Path
) -> AsyncIterator[World]:
    name = request.param
    marker = request.node.get_closest_marker("fails")
    if marker is not None and name in marker.args:
        reason = marker.kwargs["reason"]
        request.applymarker(pytest.mark.xfail(reason=reason, raises=AssertionError))
    async with world_of(name, config, database.app, tmp_path) as world:
        yield world


async def test_a_session_is_empty_at_first(world: World) -> None:
    client = await world.client()
    assert await client.read() == {"new": True, "empty": True, "data": {}}


async def test_what_is_written_is_read(world: World) -> None:
    client = await world.client()
    value = {"text": "ü", "number": 1, "list": [1, {"a": None}]}
    await client.post("/write", value)
    assert await client.read() == {"new": False, "empty": False, "data": value}


async def test_names_are_added_replaced_and_deleted(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1, "b": 1})
    await client.post("/write", {"b": 2, "c": 2})
    await client.post("/delete?name=a")
    assert await client.data() == {"b": 2, "c": 2}


async def test_a_change_in_place_is_saved_when_it_is_said(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"list": []})
    await client.post("/append")
    assert await client.data() == {"list": [1]}


async def test_the_last_name_may_go(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    await client.post("/delete?name=a")
    assert (await client.read())["empty"]


async def test_sessions_do_not_meet(world: World) -> None:
    one, other = await world.client(), await world.client()
    await one.post("/write", {"a": 1})
    assert await other.data() == {}


async def test_what_is_written_with_a_redirect_is_read(world: World) -> None:
    client = await world.client()
    assert (await client.post("/away")).status == 302
    assert await client.data() == {"away": 1}


async def test_what_is_written_with_an_error_is_read(world: World) -> None:
    client = await world.client()
    assert (await client.post("/missing")).status == 404
    assert await client.data() == {"missed": 1}


async def test_a_new_session_is_empty_but_for_what_it_is_given(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    await client.post("/fresh")
    assert await client.data() == {"fresh": 1}


@pytest.mark.fails(SIMPLE, COOKIE, reason="the old cookie is as good as before")
async def test_invalidate_ends_it_for_who_has_the_old_cookies(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    thief = client.copy()
    await client.post("/invalidate")
    answer = await thief.send("GET", "/read")
    assert answer.status == 401 or answer.json["data"] == {}


@pytest.mark.fails(
    SIMPLE, COOKIE, REDIS, reason="there is nothing that ends: the next write makes it live again"
)
async def test_what_was_invalidated_does_not_come_back(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    thief = client.copy()
    await client.post("/invalidate")
    await thief.post("/write", {"b": 1})
    assert (await thief.send("GET", "/read")).status == 401


@pytest.mark.fails(
    SIMPLE, COOKIE, REDIS, reason="a request that was under way writes all that it had read"
)
async def test_a_request_under_way_does_not_bring_an_ended_session_back(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await go_on.wait()

    world.handlers.before_saving = hold
    late = client.copy()
    writing = asyncio.create_task(late.post("/write", {"late": 1}))
    await arrived.wait()
    await client.post("/invalidate")
    go_on.set()
    await writing
    answer = await late.send("GET", "/read")
    assert answer.status == 401 or answer.json["data"] == {}


@pytest.mark.fails(SIMPLE, COOKIE, REDIS, reason="who writes last replaces all")
async def test_two_requests_that_change_different_names_lose_neither(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 0})
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await both.wait()

    world.handlers.before_saving = meet
    one, other = client.copy(), client.copy()
    await asyncio.gather(one.post("/write", {"b": 1}), other.post("/write", {"c": 2}))
    assert await one.data() == await other.data() == {"a": 0, "b": 1, "c": 2}


@pytest.mark.fails(SIMPLE, COOKIE, REDIS, reason="the old session goes on beside the new one")
async def test_a_new_session_ends_the_old_one(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    thief = client.copy()
    await client.post("/fresh")
    answer = await thief.send("GET", "/read")
    assert answer.status == 401 or answer.json["data"] == {}


async def test_a_large_session_is_no_success_that_is_lost(world: World) -> None:
    """The others take it, or not: a browser drops a cookie of this size without a word."""
    client = await world.client()
    answer = await client.post("/write", {"a": "x" * 5000})
    if world.name == OURS:
        assert (answer.status, answer.code) == (422, "session_data_too_large")
        assert await client.data() == {}
    else:
        assert answer.status == 200
