"""Ways back in over HTTP: the same answer in the same time, whoever has the login."""

from __future__ import annotations

import logging
import random
import statistics
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.accounts.rules.links import MOST_LINKS
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services

from tests.conftest import Dsns
from tests.mail.server import Inbox, mail_server
from tests.serving import NEW_PASSWORD, PASSWORD, Answer, Service, serving
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)

TRIES = 1000


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    async with mail_server() as inbox:
        yield inbox


@pytest.fixture
async def mailing(config: Config, database: Dsns, inbox: Inbox) -> AsyncIterator[Service]:
    """The service with a mail server, an administrator, and ada, whose address is verified."""
    config = msgspec.structs.replace(inbox.settings(config), recovery_tries=1_000_000)
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
        await services.accounts.recovery.invite("ada", (), "ada@example.com")
        await services.accounts.mailer.look()
        await services.accounts.recovery.set_password(inbox.mails.pop().token, PASSWORD)
    async with serving(create_app(config, database.app), config) as running:
        yield running


async def recover(service: Service, login: str) -> Answer:
    return await service.post("/v1/recover", json={"login": login})


def distance(some: list[float], others: list[float]) -> float:
    """How far apart the two distributions are at most (Kolmogorov, Smirnov): 0 to 1."""
    merged = sorted([(each, 0) for each in some] + [(each, 1) for each in others])
    counts, farthest = [0, 0], 0.0
    for _, which in merged:
        counts[which] += 1
        farthest = max(farthest, abs(counts[0] / len(some) - counts[1] / len(others)))
    return farthest


@pytest.mark.timeout(600)
async def test_who_asks_cannot_tell_whether_there_is_such_a_user(
    mailing: Service, inbox: Inbox, connection: Connection
) -> None:
    """What is counted is forgotten now and then: more than a few tries are never counted here."""
    times: dict[str, list[float]] = {"ada": [], "eve": []}
    order = [*times] * TRIES
    random.Random(13).shuffle(order)
    seen = set()
    for number, login in enumerate(order):
        if number % 20 == 0:
            await connection.execute("DELETE FROM login_tries")
        started = time.perf_counter()
        answer = await recover(mailing, login)
        times[login].append(time.perf_counter() - started)
        kept = [(k, v) for k, v in answer.headers.items() if k not in {"Date", "traceparent"}]
        seen.add((answer.status, answer.body, tuple(sorted(name for name, _ in kept))))
    assert len(seen) == 1 and next(iter(seen))[0] == 202
    medians = {login: statistics.median(each) for login, each in times.items()}
    apart = distance(times["ada"], times["eve"])
    logger.info("medians %s, at most %.3f apart", medians, apart)
    assert apart < 2.23 * (2 / TRIES) ** 0.5  # of equal ones, one in ten thousand is farther apart
    assert abs(medians["ada"] / medians["eve"] - 1) < 0.1
    await until(lambda: bool(inbox.mails), within_s=60)  # that was asked for, and goes out


async def test_from_asking_to_a_new_password(mailing: Service, inbox: Inbox) -> None:
    old = await mailing.token("ada")
    assert (await recover(mailing, "ada")).status == 202
    await until(lambda: bool(inbox.mails))
    token = inbox.mails.pop().token
    body = {"token": token, "new_password": NEW_PASSWORD}
    weak = await mailing.post("/v1/recover/confirm", json=body | {"new_password": "short"})
    assert weak.code == "weak_password"
    done = await mailing.post("/v1/recover/confirm", json=body)
    assert (done.status, done.json["ended"]) == (200, 1)
    assert (await mailing.get("/v1/me", cookie=old)).status == 401
    assert (await mailing.log_in("ada", NEW_PASSWORD)).status == 200
    again = await mailing.post("/v1/recover/confirm", json=body)
    unknown = await mailing.post("/v1/recover/confirm", json=body | {"token": "A" * 43})
    nonsense = await mailing.post("/v1/recover/confirm", json=body | {"token": "nonsense"})
    assert again.code == unknown.code == nonsense.code == "link_unusable"
    assert {again.body, unknown.body, nonsense.body} == {again.body}
    await until(lambda: bool(inbox.mails))
    assert inbox.mails[-1].subject == "Your password was set anew"


async def test_administrators_invite_and_reset(mailing: Service, inbox: Inbox) -> None:
    root, ada = await mailing.token("root"), await mailing.log_in("ada")
    invitation = {"login": "eve", "roles": ["auditor"]}
    assert (await mailing.post("/v1/users/invite", json=invitation, cookie=ada.token)).status == 403
    made = await mailing.post("/v1/users/invite", json=invitation, cookie=root)
    assert made.status == 201 and made.json["link"].endswith(made.json["token"])
    taken = await mailing.post("/v1/users/invite", json=invitation, cookie=root)
    assert taken.code == "login_taken"
    wrong = await mailing.post(
        "/v1/users/invite", json={"login": "x", "roles": ["king"]}, cookie=root
    )
    assert (wrong.status, wrong.code) == (404, "no_such_role")
    body = {"token": made.json["token"], "new_password": NEW_PASSWORD}
    assert (await mailing.post("/v1/recover/confirm", json=body)).status == 200
    assert (await mailing.log_in("eve", NEW_PASSWORD)).status == 200
    reset = await mailing.post(f"/v1/users/{made.json['user_id']}/reset", cookie=root)
    assert reset.status == 200 and reset.json["token"]
    mailed = await mailing.post(f"/v1/users/{ada.json['user_id']}/reset", cookie=root)
    assert mailed.status == 200 and mailed.json["token"] is mailed.json["link"] is None
    await until(lambda: bool(inbox.mails))
    assert inbox.mails[-1].to == "ada@example.com"


async def test_an_address_of_mail_is_shown_changed_and_removed(
    mailing: Service, inbox: Inbox
) -> None:
    cookie = await mailing.token("ada")
    shown = await mailing.get("/v1/me/address", cookie=cookie)
    assert shown.json["address"] == "ada@example.com"
    proposed = {"address": "ada@elsewhere.example"}
    assert (await mailing.send("PUT", "/v1/me/address", json=proposed, cookie=cookie)).status == 202
    await until(lambda: bool(inbox.mails))
    body = {"token": inbox.mails.pop().token}
    assert (await mailing.post("/v1/address/confirm", json=body)).status == 200
    assert (await mailing.post("/v1/address/confirm", json=body)).code == "link_unusable"
    shown = await mailing.get("/v1/me/address", cookie=cookie)
    assert shown.json["address"] == "ada@elsewhere.example"
    removed = await mailing.send("DELETE", "/v1/me/address", cookie=cookie)
    assert removed.status == 200 and removed.json["position"] is not None
    removed = await mailing.send("DELETE", "/v1/me/address", cookie=cookie)
    assert removed.json["position"] is None
    shown = await mailing.get("/v1/me/address", cookie=cookie)
    assert shown.json == {"address": None, "verified_at": None}


async def test_without_a_mail_server_nothing_is_asked_for(service: Service) -> None:
    assert (await recover(service, "ada")).code == "recovery_closed"
    assert (await service.register()).status == 201
    cookie = await service.token()
    proposed = await service.send(
        "PUT", "/v1/me/address", json={"address": "a@b.example"}, cookie=cookie
    )
    assert proposed.code == "recovery_closed"


async def test_a_slow_mail_server_delays_mail_and_nothing_else(
    mailing: Service, inbox: Inbox
) -> None:
    """It takes connections and says nothing: logins and requests for links go on as ever."""
    inbox.hold.clear()
    for _ in range(5):
        assert (await recover(mailing, "ada")).status == 202
    await until(lambda: inbox.held > 0)
    started = time.perf_counter()
    for _ in range(20):
        assert (await recover(mailing, "ada")).status == 202
        assert (await mailing.log_in("ada")).status == 200
    took_s = time.perf_counter() - started
    logger.info("20 logins and 20 requests took %.2f s", took_s)
    assert took_s < 10
    assert inbox.mails == []
    inbox.hold.set()
    # those whose links gave way to newer ones are not worth sending
    await until(lambda: len(inbox.mails) >= MOST_LINKS, within_s=60)
