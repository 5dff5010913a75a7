"""Clients that log in, look, and log out in every way there is, and note all of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.faults.history import Check, End, History, Incident, Login, Scope

PASSWORD = "a rather long phrase"
CHECK_TIMEOUT_S = 1.5
COMMAND_TIMEOUT_S = 10.0
AFTERMATH_TTLS = 1.5  # for how long a session is still tried after its end was answered
MAX_FOLLOWED = 150  # sessions of all clients that are being tried at a time


class Load:
    """Many clients, one history."""

    def __init__(self, workers: dict[str, str], *, lease_ttl_s: float, seed: int) -> None:
        self.history = History([])
        self.tokens: dict[str, str] = {}
        self.workers = workers
        self._lease_ttl_s = lease_ttl_s
        self._random = random.Random(seed)
        self._http: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._followers = asyncio.Semaphore(MAX_FOLLOWED)

    def note(self, what: str) -> None:
        self.history.add(Incident(what, time.monotonic_ns()))

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """So many clients at work until the context ends."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as self._http:
            tasks = [asyncio.create_task(self._client(f"user{n}")) for n in range(clients)]
            try:
                yield
            finally:
                for task in (*tasks, *self._tasks):
                    task.cancel()
                results = await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _client(self, user: str) -> None:
        """Two sessions at a time, ended in turn in one of the ways."""
        await self._register(user)
        while True:
            first = await self._log_in(user)
            second = await self._log_in(user)
            await asyncio.sleep(self._random.uniform(0, 0.2))
            await self._end(user, first, second)

    async def _end(self, user: str, first: Followed, second: Followed) -> None:
        way = self._random.choice(["log out", "log out twice", "revoke", "others", "all"])
        if way == "log out":
            await asyncio.gather(self._log_out(user, first), self._log_out(user, second))
        elif way == "log out twice":
            await asyncio.gather(*(self._log_out(user, first) for _ in range(2)))
            await self._log_out(user, second)
        elif way == "revoke":
            path = f"/v1/sessions/{second.session_id}"
            await self._command(user, first, "one", "DELETE", path, ended=(second,))
            await self._log_out(user, first)
        elif way == "others":
            path = "/v1/sessions/end_others"
            await self._command(user, first, "others", "POST", path, ended=(second,))
            await self._log_out(user, first)
        else:
            path = "/v1/sessions/end_all"
            await self._command(user, first, "all", "POST", path, ended=(first, second))

    async def _log_out(self, user: str, session: Followed) -> None:
        method = self._random.choice(["GET", "POST"])
        await self._command(user, session, "one", method, "/v1/logout_user", ended=(session,))

    async def _command(
        self,
        user: str,
        session: Followed,
        scope: Scope,
        *request: str,
        ended: tuple[Followed, ...],
    ) -> None:
        """Ask with this session for the end of those; who knows of it tries them everywhere."""
        worker, began, status = self._any_worker(), time.monotonic_ns(), None
        subject = ended[0] if scope == "one" else session
        try:
            status, _ = await self._ask(worker, *request, token=session.token)
        finally:  # also when this run is over: it may have happened
            answered = time.monotonic_ns()
            self.history.add(End(subject.session_id, user, scope, worker, began, answered, status))
        for each in ended:
            each.over.set()
        if status == 200:
            checks = (self._check(each, worker) for each in ended for worker in self.workers)
            await asyncio.gather(*checks)

    async def _register(self, user: str) -> None:
        body = {"login": user, "password": PASSWORD}
        while True:
            status, _ = await self._ask(self._any_worker(), "POST", "/v1/register_user", body=body)
            if status in (201, 409):
                return

    async def _log_in(self, user: str) -> Followed:
        body = {"login": user, "password": PASSWORD, "token": "bearer"}
        while True:
            worker, began = self._any_worker(), time.monotonic_ns()
            status, granted = await self._ask(worker, "POST", "/v1/login_user", body=body)
            if status == 200:
                break
            await asyncio.sleep(0.05)  # what refuses needs no hurry
        session = Followed(granted["session_id"], granted["token"])
        self.tokens[session.session_id] = session.token
        self.history.add(Login(session.session_id, user, began, time.monotonic_ns()))
        task = asyncio.create_task(self._follow(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return session

    async def _follow(self, session: Followed) -> None:
        """Try this session on one worker after the other, until well after its end."""
        async with self._followers:
            until = float("inf")
            while time.monotonic() < until:
                await self._check(session, self._any_worker())
                await asyncio.sleep(self._random.uniform(0.01, 0.1))
                if until == float("inf") and session.over.is_set():
                    until = time.monotonic() + AFTERMATH_TTLS * self._lease_ttl_s

    async def _check(self, session: Followed, worker: str) -> None:
        began = time.monotonic_ns()
        status, _ = await self._ask(
            worker, "GET", "/v1/me", token=session.token, timeout_s=CHECK_TIMEOUT_S
        )
        answered = time.monotonic_ns()
        self.history.add(Check(session.session_id, worker, began, answered, status))

    def _any_worker(self) -> str:
        return self._random.choice(list(self.workers))

    async def _ask(
        self,
        worker: str,
        method: str,
        path: str,
        *,
        token: str | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        body: Any = None,
    ) -> tuple[int | None, Any]:
        """Status and content of the answer; None when there was none.

        How often which was the case is for a subclass to count.
        """
        what = f"{method} {path.removeprefix('/v1/').partition('/')[0]}"
        assert self._http is not None
        headers = {"Authorization": f"Bearer {token}"} if token else None
        try:
            async with self._http.request(
                method,
                self.workers[worker] + path,
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(timeout_s),
            ) as answer:
                content = await answer.json(content_type=None)
                self._answered(what, answer, content)
                return answer.status, content
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            self._unanswered(what, error)
            return None, None

    def _answered(self, what: str, answer: aiohttp.ClientResponse, content: Any) -> None:
        """An answer has come."""

    def _unanswered(self, what: str, error: Exception) -> None:
        """None has come in time."""


class Followed:
    """A session as its client has it."""

    def __init__(self, session_id: str, token: str) -> None:
        self.session_id = session_id
        self.token = token
        self.over = asyncio.Event()  # its client has ended it, or does not know whether it has
