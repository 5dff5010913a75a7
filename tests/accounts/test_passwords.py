"""Hashing beside the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest
from gatelog.accounts.service.passwords import NICENESS, PasswordPool
from gatelog.config import Config
from gatelog.errors import HashingFull, Unavailable


@pytest.fixture
def pool(config: Config) -> Iterator[PasswordPool]:
    pool = PasswordPool(config)
    yield pool
    pool.close()


async def test_a_password_fits_its_hash_only(pool: PasswordPool) -> None:
    encoded = await pool.hash("a phrase")
    assert encoded.startswith("$argon2id$")
    assert await pool.verify(encoded, "a phrase")
    assert not await pool.verify(encoded, "another phrase")
    assert await pool.hash("a phrase") != encoded


async def test_nobody_has_no_password(pool: PasswordPool) -> None:
    assert not await pool.verify(None, "a phrase")


async def test_other_parameters_ask_for_a_new_hash(config: Config, pool: PasswordPool) -> None:
    encoded = await pool.hash("a phrase")
    assert not pool.needs_rehash(encoded)
    stronger = PasswordPool(msgspec.structs.replace(config, argon2_time_cost=2))
    assert stronger.needs_rehash(encoded)
    assert await stronger.verify(encoded, "a phrase")
    stronger.close()


async def test_an_unknown_user_costs_what_a_wrong_password_costs(config: Config) -> None:
    pool = PasswordPool(msgspec.structs.replace(config, argon2_memory_kib=19_456))
    encoded = await pool.hash("a phrase")

    async def cpu_time(password_hash: str | None) -> float:
        started = time.process_time()
        assert not await pool.verify(password_hash, "wrong")
        return time.process_time() - started

    pairs = [(await cpu_time(None), await cpu_time(encoded)) for _ in range(7)]
    pool.close()
    unknown, wrong = (min(times) for times in zip(*pairs, strict=True))
    assert 0.5 < unknown / wrong < 2


async def test_what_does_not_fit_the_queue_is_refused_at_once(config: Config) -> None:
    slow = msgspec.structs.replace(config, argon2_memory_kib=131_072, hashing_queue=1)
    pool = PasswordPool(slow)
    try:
        waiting = [asyncio.create_task(pool.hash("a phrase")) for _ in range(2)]
        await asyncio.sleep(0)  # both have asked for their place
        with pytest.raises(HashingFull):
            await pool.hash("a phrase")
        await asyncio.gather(*waiting)
        assert await pool.hash("a phrase")
    finally:
        pool.close()


async def test_who_goes_away_leaves_the_place_to_others(config: Config) -> None:
    pool = PasswordPool(msgspec.structs.replace(config, hashing_queue=1))
    for _ in range(20):
        tasks = [asyncio.create_task(pool.hash("a phrase")) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await pool.hash("a phrase")
    pool.close()


async def test_threads_of_the_pool_are_nicer_than_the_loop(pool: PasswordPool) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = niceness()  # of who runs the tests, which may be nice already
    assert await pool._run(niceness) == max(own, NICENESS)
    assert niceness() == own


async def test_a_closed_pool_says_so(config: Config) -> None:
    pool = PasswordPool(config)
    pool.close()
    with pytest.raises(Unavailable):
        await pool.hash("a phrase")
