"""Clients that guess passwords, many at once, and what became of it.

Everybody comes through a trusted proxy, which says where they come from: so one machine has as many
addresses as it likes.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

PASSWORD = "a rather long phrase"
WRONG = "not the right phrase"
# As it is deployed, but that the loopback addresses are a proxy's.
SETTINGS = {
    "GATELOG_TRUSTED_PROXIES": "127.0.0.0/8",
    "GATELOG_LOGIN_TRIES": "5",
    "GATELOG_HASHING_QUEUE": "64",
    "GATELOG_ARGON2_MEMORY_KIB": "19456",
    "GATELOG_ARGON2_TIME_COST": "2",
    "GATELOG_HASHING_THREADS": "1",
    "GATELOG_DATABASE_POOL": "4",
    "GATELOG_DATABASE_TIMEOUT_S": "30",
}
DEVICE_COOKIE = "__Host-gatelog-device"


class Tried(msgspec.Struct, frozen=True):
    """The answer to a try, and when it was asked for and came, in seconds."""

    status: int
    began_s: float
    ended_s: float
    retry_after_s: int
    device: str = ""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


class Guessing:
    """Clients of these workers, by their URLs."""

    def __init__(self, urls: Sequence[str], http: aiohttp.ClientSession) -> None:
        self._urls = urls
        self._turns = itertools.count()
        self._http = http

    async def post(self, path: str, body: Any, address: str, cookie: str = "") -> Tried:
        """Ask one worker after the other."""
        url = self._urls[next(self._turns) % len(self._urls)]
        headers = {"X-Forwarded-For": address, "Host": "gate.example"}
        if cookie:
            headers["Cookie"] = f"{DEVICE_COOKIE}={cookie}"
        began_s = time.monotonic()
        async with self._http.post(f"{url}/v1/{path}", json=body, headers=headers) as answer:
            await answer.read()
            lines = answer.headers.getall("Set-Cookie", ())
            device = next((line for line in lines if line.startswith(DEVICE_COOKIE)), "")
            return Tried(
                answer.status,
                began_s,
                time.monotonic(),
                int(answer.headers.get("Retry-After", 0)),
                device.partition(";")[0].partition("=")[2],
            )

    async def register(self, login: str, address: str = "203.0.113.1") -> None:
        body = {"login": login, "password": PASSWORD}
        tried = await self.post("register_user", body, address)
        assert tried.status == 201, tried

    async def log_in(self, login: str, password: str, address: str, device: str = "") -> Tried:
        body = {"login": login, "password": password}
        return await self.post("login_user", body, address, device)

    async def one_by_one(self, login: str, address: str, seconds: float) -> list[Tried]:
        """Guess as one client would that does what it is told."""
        tries: list[Tried] = []
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            tries.append(await self.log_in(login, WRONG, address))
            if tries[-1].status != 401:
                wait_s = max(0.01, min(tries[-1].retry_after_s, end_s - time.monotonic()))
                await asyncio.sleep(wait_s)
        return tries

    async def all_at_once(
        self, login: str, addresses: Iterator[str], seconds: float, clients: int
    ) -> list[Tried]:
        """Guess without a pause, on all workers."""
        end_s = time.monotonic() + seconds

        async def guess() -> list[Tried]:
            tries: list[Tried] = []
            while time.monotonic() < end_s:
                tries.append(await self.log_in(login, WRONG, next(addresses)))
            return tries

        found = await asyncio.gather(*(guess() for _ in range(clients)))
        return list(itertools.chain(*found))

    @asynccontextmanager
    async def flood(self, strangers: int) -> AsyncIterator[Counter[int]]:
        """So many strangers, each from an address of its own, who guess at accounts of all sorts.

        Gives their answers by status, as they come; when there are as many as strangers.
        """
        answers: Counter[int] = Counter()
        everybody = asyncio.Event()

        async def guess(number: int) -> None:
            address = f"198.18.{number // 250}.{number % 250 + 1}"
            for turn in itertools.count():
                tried = await self.log_in(f"user{number}.{turn}", WRONG, address)
                answers[tried.status] += 1
                if answers.total() >= strangers:
                    everybody.set()
                await asyncio.sleep(min(1.0, tried.retry_after_s))

        tasks = [asyncio.create_task(guess(number)) for number in range(strangers)]
        try:
            await everybody.wait()
            yield answers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def let_through(tries: Sequence[Tried]) -> int:
    """How many passwords were looked at."""
    assert {tried.status for tried in tries} <= {200, 401, 429, 503}, tries
    return sum(tried.status in {200, 401} for tried in tries)


def most_within(seconds: float, free: int = 5) -> int:
    """How many tries the curve lets through: the free ones at once, then after 1, 3, 7, 15 … s."""
    return free + int(math.log2(seconds + 1))


# --- whether two samples are of one distribution


def ks_distance(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sample Kolmogorov-Smirnov statistic: the greatest distance of the two shares."""
    a, b = sorted(first), sorted(second)
    distance, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        value = min(a[i], b[j])
        while i < len(a) and a[i] == value:
            i += 1
        while j < len(b) and b[j] == value:
            j += 1
        distance = max(distance, abs(i / len(a) - j / len(b)))
    return distance


def ks_p_value(distance: float, n: int, m: int) -> float:
    """How likely such a distance is by chance alone (asymptotic; Stephens 1970)."""
    size = math.sqrt(n * m / (n + m))
    x = (size + 0.12 + 0.11 / size) * distance
    if x < 0.2:
        return 1.0
    terms = ((1.0 if k % 2 else -1.0) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))
