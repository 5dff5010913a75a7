"""The clients of the fault tests, sent through nginx; beside the history, answers are counted."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import aiohttp

from tests.compose.stack import Stack
from tests.faults.load import Load
from tests.waiting import until

CLIENT_TIMEOUT_S = 30.0  # nginx answers sooner, whatever happens behind it
# What each request may be answered, and nothing else is.
RIGHT = {
    "POST register_user": {201, 409},  # 409: this client's user is there from an earlier load
    "POST login_user": {200},
    "GET me": {200, 401},  # which of them is right, the history decides
    "GET logout_user": {200},  # also when there was nothing to end
    "POST logout_user": {200},
    # 404: sent again after a lost answer, see tests/faults/history.py
    "DELETE sessions": {200, 404},
    # 401: an earlier end, which was not answered, has come late
    "POST sessions": {200, 401},
    "POST change_password": {200, 401},
}


class FrontLoad(Load):
    """Clients that know the front port and nothing else."""

    def __init__(self, stack: Stack, *, lease_ttl_s: float = 3.0) -> None:
        seed = random.randrange(1 << 32)
        super().__init__({"front": stack.url}, lease_ttl_s=lease_ttl_s, seed=seed, over=False)
        self.answers: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def _ask(
        self,
        worker: str,
        method: str,
        path: str,
        *,
        token: str | None = None,
        timeout_s: float = CLIENT_TIMEOUT_S,
        body: Any = None,
        cookie: bool = False,
    ) -> tuple[int | None, Any]:
        return await super()._ask(
            worker, method, path, token=token, timeout_s=CLIENT_TIMEOUT_S, body=body, cookie=cookie
        )

    def _unanswered(self, what: str, error: Exception) -> None:
        self.wrong.append(f"{what}: no answer: {error!r}")

    def _answered(self, what: str, answer: aiohttp.ClientResponse, content: Any) -> None:
        self.answers[f"{what} {answer.status}"] += 1
        if answer.status in RIGHT[what]:
            return
        self.failed[f"{what} {answer.status} {content.get('code')}"] += 1
        if answer.status != 503 or not answer.headers.get("Retry-After", "").isdigit():
            self.wrong.append(f"{what}: {answer.status} {dict(answer.headers)}")

    def logins(self) -> int:
        return self.answers["POST login_user 200"]

    def refused_checks(self) -> int:
        """How many checks were answered 503: nobody could tell."""
        return self.answers["GET me 503"]

    async def grows(self, by: int = 10, within_s: float = 120.0) -> None:
        """Wait for so many further logins."""
        wanted = self.logins() + by
        await until(lambda: self.logins() >= wanted, within_s=within_s)

    async def grows_undisturbed(self, by: int = 10, within_s: float = 120.0) -> None:
        """Wait for so many logins during which nothing fails; what began before them may."""
        async with asyncio.timeout(within_s):
            while True:
                failed = self.failed.total()
                await self.grows(by, within_s=within_s)
                if self.failed.total() == failed:
                    return

    def assert_promise_kept(self) -> None:
        """No session outlived the answer to its end, and no error but 503 with Retry-After."""
        violations = self.history.violations()
        assert not violations, f"{self.history.counts()}\n{violations[0]}"
        assert not self.wrong, f"{len(self.wrong)}: {self.wrong[:5]}"
        counts = self.history.counts()
        assert counts.get("end 200", 0) > 5, counts
        assert counts.get("check 401", 0) > 5, counts

    def assert_nothing_failed(self) -> None:
        assert not self.failed, f"{dict(self.failed)} of {dict(self.answers)}"
        self.assert_promise_kept()
