"""People with second factors, over HTTP: what tests of them share."""

from __future__ import annotations

from base64 import b32decode
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gatelog.accounts.rules.totp import SEED_BYTES, code_of, step_at
from gatelog.accounts.web import ACCOUNTS
from gatelog.clock import utc_now

from tests.serving import PASSWORD, Answer, Service


class Person:
    """Somebody with a login, and what they have enrolled. Sessions are carried as bearers."""

    def __init__(
        self,
        service: Service,
        login: str = "alice",
        password: str = PASSWORD,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.service = service
        self.login = login
        self.password = password
        self.now = now
        self.seed = b""
        self.factor_id = ""
        self.recovery_codes: list[str] = []

    async def enrol_seed(self, bearer: str, **fields: Any) -> Answer:
        """Enrol a TOTP seed from within this session, confirmed by the code of the step before."""
        offer = await self.service.post("/v1/factors/totp", bearer=bearer)
        assert offer.status == 200, offer
        self.seed = b32decode(offer.json["secret"])
        assert len(self.seed) == SEED_BYTES
        body = {"challenge": offer.json["challenge"], "code": self.code(-1)} | fields
        answer = await self.service.post("/v1/factors/totp/confirm", json=body, bearer=bearer)
        if answer.status == 201:
            self.factor_id = answer.json["factor_id"]
            self.recovery_codes = answer.json.get("recovery_codes", []) or self.recovery_codes
        return answer

    async def enrolled(self) -> str:
        """Log in by password and enrol a seed; the session's token."""
        bearer = await self.bearer()
        enrolled = await self.enrol_seed(bearer)
        assert enrolled.status == 201, enrolled
        return bearer

    def code(self, after: int = 0) -> str:
        """The code of now, or of so many steps later."""
        return code_of(self.seed, step_at(self.now()) + after)

    def wrong_code(self) -> str:
        """A code that is none, of any step that is near."""
        near = {self.code(after) for after in range(-3, 4)}
        return next(text for n in range(8) if (text := f"{n:06}") not in near)

    async def asked(self) -> Answer:
        """What the right password is answered."""
        body = {"login": self.login, "password": self.password, "token": "bearer"}
        return await self.service.post("/v1/login_user", json=body)

    async def bearer(self) -> str:
        """A session by password alone."""
        answer = await self.asked()
        assert answer.status == 200, answer
        return answer.token

    async def challenge(self) -> str:
        """The challenge that the right password is answered with."""
        answer = await self.asked()
        assert answer.code == "factor_required", answer
        return str(answer.json["challenge"])

    async def answer(self, challenge: str, **answer: Any) -> Answer:
        """Answer a challenge."""
        body = {"challenge": challenge, "token": "bearer"} | answer
        return await self.service.post("/v1/login_factor", json=body)

    async def both(self, **answer: Any) -> Answer:
        """Password and factor, one after the other."""
        return await self.answer(await self.challenge(), **answer)


def go_by(service: Service, clock: Callable[[], datetime]) -> None:
    """Let the accounts of this service go by this clock."""
    service.runner.app[ACCOUNTS].logins._acting.now = clock
