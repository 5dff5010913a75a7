"""Clients that log in, look, and end sessions in every way that a user has, and note all of it.

What administrators may do is not among it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from itertools import count
from typing import Any

import aiohttp
import msgspec

from tests.faults.history import (
    RECORDED_WITHIN_S,
    Check,
    End,
    History,
    Incident,
    Login,
    Scope,
)

PASSWORDS = ("a rather long phrase", "an even longer phrase")  # everybody has one of them
CHECK_TIMEOUT_S = 1.5
COMMAND_TIMEOUT_S = 10.0
AFTERMATH_TTLS = 1.5  # for how long a session is still tried after its end was answered
WAYS = ["log out", "log out twice", "revoke", "others", "all", "password"]
NEW_WAYS = ["log in over", "token", "token and all", "token and password"]
LINGERING = 4  # clients
GUESSING = 3  # clients, at one account
CROWDING = 3  # clients that do nothing but that, which takes many logins in a row
WITH_TOKENS = 2  # clients that do nothing but create tokens and end each for itself
WRONG = "the phrase of nobody"
# Where requests of this client come from, where a trusted proxy may say so.
ADDRESS: ContextVar[str | None] = ContextVar("address", default=None)
MAX_FOLLOWED = 150  # sessions of all clients that are being tried at a time


class Load:
    """Many clients, one history."""

    def __init__(
        self,
        workers: dict[str, str],
        *,
        lease_ttl_s: float,
        seed: int,
        idle_s: float | None = None,
        over: bool = True,
        cap: int | None = None,
    ) -> None:
        """``idle_s``: how long sessions may idle, where that is so short that it matters.

        ``over``: a login over a live session ends it, and there are tokens for machines, as not
        with every version of before.
        ``cap``: how many sessions a user may have, where that is so few that it matters; then the
        workers trust us to say where clients come from, too, and passwords are guessed.
        """
        self._ways = [*WAYS, *NEW_WAYS] if over else WAYS
        if cap is not None:
            self._ways = [*self._ways, "crowd"]
        self._cap = cap
        self._loose: Counter[str] = Counter()  # sessions of users that may be there, unknown to us
        self.guesses: list[tuple[float, int]] = []  # when they were answered, in s, and how
        self._idle_s = idle_s
        self.history = History([])
        self.tokens: dict[str, str] = {}
        self.workers = workers
        self._lease_ttl_s = lease_ttl_s
        self._random = random.Random(seed)
        self._left: dict[str, list[Followed]] = {}  # by user, as long as somebody is that user
        self.refused_logins = 0
        self.crowded_out = 0  # sessions, by one more than may be
        self._names = f"{seed:x}"  # so that no user is known from an earlier run
        self._passwords: dict[str, str] = {}  # of users, as long as it is certain
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
            tasks = [asyncio.create_task(self._client(str(number))) for number in range(clients)]
            if self._idle_s is not None:
                lingering = (self._linger(f"idle-{n}", self._idle_s) for n in range(LINGERING))
                tasks += [asyncio.create_task(each) for each in lingering]
            if self._cap is not None:
                await self._register(self._user("guessed"))
                tasks += [asyncio.create_task(self._guess(number)) for number in range(GUESSING)]
                crowds = (self._client(str(clients + n), ["crowd"]) for n in range(CROWDING))
                tasks += [asyncio.create_task(each) for each in crowds]
                clients += CROWDING
                tokens = (self._client(str(clients + n), ["token"]) for n in range(WITH_TOKENS))
                tasks += [asyncio.create_task(each) for each in tokens]
            try:
                yield
            finally:
                for task in (*tasks, *self._tasks):
                    task.cancel()
                results = await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def hold(self, name: str, sessions: int) -> set[str]:
        """Start sessions that nobody ends: they are tried as long as this runs."""
        user = self._user(name)
        await self._register(user)
        return {(await self._log_in(user)).session_id for _ in range(sessions)}

    def _user(self, name: str) -> str:
        return f"user-{self._names}-{name}"

    async def _client(self, name: str, ways: Sequence[str] | None = None) -> None:
        """One user after the other: who does not know the password any more is somebody new."""
        self._come_from(f"10.0.0.{int(name) + 1}")
        for number in count():
            user = self._user(f"{name}-{number}")
            with suppress(LoginRefused):
                await self._be(user, ways or self._ways)
            for session in self._left.pop(user, ()):  # nobody goes on with them
                session.over.set()

    async def _be(self, user: str, ways: Sequence[str]) -> None:
        """Two sessions at a time, ended in turn in one of the ways, while the password is known.

        Where there may not be many, also while all of them are known.
        """
        await self._register(user)
        while user in self._passwords and not (self._cap and self._loose[user]):
            first = await self._log_in(user)
            second = await self._log_in(user)
            await asyncio.sleep(self._random.uniform(0, 0.2))
            await self._end(user, first, second, self._random.choice(ways))

    async def _end(self, user: str, first: Followed, second: Followed, way: str) -> None:
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
        elif way == "password":
            await self._change_password(user, first, second)
        elif way.startswith("token"):
            await self._end_token(user, first, second, way)
        elif way == "log in over":
            await self._log_in_over(user, first)
            await self._log_out(user, second)
        elif way == "crowd":
            await self._crowd(user, first, second)
        else:
            path = "/v1/sessions/end_all"
            await self._command(user, first, "all", "POST", path, ended=(first, second))

    async def _log_out(self, user: str, session: Followed) -> None:
        method = self._random.choice(["GET", "POST"])
        await self._command(user, session, "one", method, "/v1/logout_user", ended=(session,))

    async def _end_token(self, user: str, first: Followed, second: Followed, way: str) -> None:
        """Create a token for a machine, have it used on every host, and end it in one of the ways.

        Where the answer does not come, or is none that tells of a token, nobody has one to try.
        """
        token = await self._create_token(user, first)
        if token is None:
            await asyncio.gather(self._log_out(user, first), self._log_out(user, second))
            return
        await asyncio.gather(*(self._check(token, worker) for worker in self.workers))
        await asyncio.sleep(self._random.uniform(0, 0.2))
        if way == "token and password":
            await self._change_password(user, first, second, token)
        elif way == "token and all":
            request, body = ("POST", "/v1/sessions/end_all"), {"tokens": True}
            ended = (first, second, token)
            await self._command(user, first, "all", *request, ended=ended, body=body, tokens=True)
        else:
            path = f"/v1/tokens/{token.session_id}"
            await self._command(user, first, "one", "DELETE", path, ended=(token,))
            await asyncio.gather(self._log_out(user, first), self._log_out(user, second))

    async def _create_token(self, user: str, by: Followed) -> Followed | None:
        worker, began = self._any_worker(), time.monotonic_ns()
        body = {"name": "load", "lifetime_s": 3600}
        status, told = await self._ask(worker, "POST", "/v1/tokens", token=by.token, body=body)
        if status != 201:
            return None
        granted = {"session_id": told["token_id"], "token": told["token"]}
        return self._started(user, granted, began, time.monotonic_ns(), token=True)

    async def _log_in_over(self, user: str, first: Followed) -> None:
        """It ends the session that the browser has, and starts one."""
        body = {"login": user, "password": self._passwords[user], "token": "bearer"}
        request = ("POST", "/v1/login_user")
        _, started = await self._command(
            user, first, "one", *request, ended=(first,), body=body, cookie=True
        )
        if started is not None:
            await self._log_out(user, started)

    async def _crowd(self, user: str, first: Followed, second: Followed) -> None:
        """As many sessions as may be, and one more, which ends the oldest."""
        assert self._cap is not None
        others = [second]
        while len(others) < self._cap - 1:
            others.append(await self._log_in(user))
        if not self._loose[user]:  # else it may be another one that is the oldest
            body = {"login": user, "password": self._passwords[user], "token": "bearer"}
            request = ("POST", "/v1/login_user")
            _, started = await self._command(
                user, first, "one", *request, ended=(first,), body=body, until=self._idle_at(others)
            )
            if started is not None:
                others.append(started)
                self.crowded_out += 1
        path = "/v1/sessions/end_all"
        await self._command(user, others[-1], "all", "POST", path, ended=(first, *others))

    def _idle_at(self, sessions: Sequence[Followed]) -> float:
        """From when on one of these may have idled too long, and so be none too many: in ns."""
        if self._idle_s is None:
            return float("inf")
        return min(session.began for session in sessions) + self._idle_s * 1e9

    def _crowded(self, user: str) -> bool:
        """Whether a login might end a session that nobody has asked to end."""
        return self._cap is not None and self._loose[user] + 3 > self._cap

    def _come_from(self, address: str) -> None:
        if self._cap is not None:
            ADDRESS.set(address)

    async def _guess(self, number: int) -> None:
        """Guess at one account, together with others and on all workers, without a pause."""
        self._come_from("192.0.2.1")
        body = {"login": self._user("guessed"), "password": WRONG, "token": "bearer"}
        while True:
            status, _ = await self._ask(self._any_worker(), "POST", "/v1/login_user", body=body)
            if status is not None:
                self.guesses.append((time.monotonic(), status))
            await asyncio.sleep(self._random.uniform(0.02, 0.2))

    async def _change_password(
        self, user: str, first: Followed, second: Followed, *tokens: Followed
    ) -> None:
        """It ends every session and token and starts a session."""
        current = self._passwords.pop(user)
        (new,) = {*PASSWORDS} - {current}
        body = {"current_password": current, "new_password": new}
        request = ("POST", "/v1/change_password")
        status, started = await self._command(
            user, first, "all", *request, ended=(first, second, *tokens), body=body, tokens=True
        )
        if status == 401:  # an earlier end has come late
            self._passwords[user] = current
        elif started is not None:
            self._passwords[user] = new
            await self._log_out(user, started)

    async def _command(
        self,
        user: str,
        session: Followed,
        scope: Scope,
        *request: str,
        ended: tuple[Followed, ...],
        body: Any = None,
        cookie: bool = False,
        tokens: bool = False,
        until: float = float("inf"),
    ) -> tuple[int | None, Followed | None]:
        """Ask with this session for the end of those; who knows of it tries them everywhere.

        ``until`` then, in ns, a right answer says for sure that they have ended. Returns the status
        of the answer, and the session that it brought, if it did.
        """
        worker, began, status, granted = self._any_worker(), time.monotonic_ns(), None, None
        subject = ended[0] if scope == "one" else session
        try:
            status, content = await self._ask(
                worker, *request, token=session.token, body=body, cookie=cookie
            )
            granted = content if status == 200 and "token" in content else None
        finally:  # also when this run is over: it may have happened
            answered = time.monotonic_ns()
            told = status if answered < until else None
            end = End(subject.session_id, user, scope, worker, began, answered, told)
            end = msgspec.structs.replace(end, tokens=tokens)
            if granted:
                end = msgspec.structs.replace(end, started=granted["session_id"])
            self.history.add(end)
        started = self._started(user, granted, began, answered) if granted else None
        if status != 200:
            self._loose[user] += len(ended) + 1
        for each in ended:
            each.over.set()
        if status == 200:
            checks = (self._check(each, worker) for each in ended for worker in self.workers)
            await asyncio.gather(*checks)
        return status, started

    async def _register(self, user: str) -> None:
        body = {"login": user, "password": PASSWORDS[0]}
        while True:
            status, _ = await self._ask(self._any_worker(), "POST", "/v1/register_user", body=body)
            if status in (201, 409):
                self._passwords[user] = PASSWORDS[0]
                return

    async def _linger(self, name: str, idle_s: float) -> None:
        """Use sessions for longer than they may idle, leave them alone, and try them everywhere."""
        self._come_from("10.0.1.1")
        for number in count():
            with suppress(LoginRefused):
                user = self._user(f"{name}-{number}")
                await self._register(user)
                while True:
                    await self._outlast(await self._log_in(user, follow=False), idle_s)

    async def _outlast(self, session: Followed, idle_s: float) -> None:
        until = time.monotonic() + self._random.uniform(1.2, 2.5) * idle_s
        while time.monotonic() < until:
            await self._check(session, self._any_worker())
            await asyncio.sleep(self._random.uniform(0.02, 0.4))
        await asyncio.sleep(idle_s + RECORDED_WITHIN_S + 0.1)
        for _ in range(3):
            await asyncio.gather(*(self._check(session, worker) for worker in self.workers))

    async def _log_in(self, user: str, *, follow: bool = True) -> Followed:
        """A new session. Raises LoginRefused."""
        body = {"login": user, "password": self._passwords[user], "token": "bearer"}
        while True:
            worker, began = self._any_worker(), time.monotonic_ns()
            status, granted = await self._ask(worker, "POST", "/v1/login_user", body=body)
            if status == 200:
                note = self._started if follow else self._noted
                return note(user, granted, began, time.monotonic_ns())
            if status == 401:
                self.refused_logins += 1
                raise LoginRefused
            self._loose[user] += status != 429
            if self._crowded(user):
                raise LoginRefused
            await asyncio.sleep(0.05)  # what refuses needs no hurry

    def _started(
        self, user: str, granted: Any, began: int, answered: int, *, token: bool = False
    ) -> Followed:
        """Note a session that an answer has brought, and follow it."""
        session = self._noted(user, granted, began, answered, token=token)
        self._left.setdefault(user, []).append(session)
        task = asyncio.create_task(self._follow(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return session

    def _noted(
        self, user: str, granted: Any, began: int, answered: int, *, token: bool = False
    ) -> Followed:
        session = Followed(granted["session_id"], granted["token"], began)
        self.tokens[session.session_id] = session.token
        idle_s = None if token else self._idle_s
        self.history.add(Login(session.session_id, user, began, answered, idle_s, token))
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
        cookie: bool = False,
    ) -> tuple[int | None, Any]:
        """Status and content of the answer; None when there was none.

        How often which was the case is for a subclass to count.
        """
        what = f"{method} {path.removeprefix('/v1/').partition('/')[0]}"
        assert self._http is not None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if cookie:
            headers = {"Cookie": f"__Host-gatelog={token}"}
        if (address := ADDRESS.get()) is not None:
            headers |= {"X-Forwarded-For": address}
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


class LoginRefused(Exception):
    """The password is another one, or there is no such user, which only lost events can do; or the
    user may have too many sessions that nobody knows of.
    """


class Followed:
    """A session as its client has it."""

    def __init__(self, session_id: str, token: str, began: int) -> None:
        self.session_id = session_id
        self.token = token
        self.began = began  # when it was asked for, in ns
        self.over = asyncio.Event()  # its client has ended it, or does not know whether it has
