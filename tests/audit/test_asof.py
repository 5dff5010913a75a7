"""Who was logged in then, over HTTP."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from gatelog.clock import new_random_id, utc_now
from gatelog.config import Config
from gatelog.hosting.services import open_services
from gatelog.log.store.database import connect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service

PATH = "/v1/audit/sessions"


@pytest.fixture
async def auditor(service: Service, config: Config, database: Dsns) -> str:
    """A token of somebody with the role auditor, who has the first session."""
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("audrey", PASSWORD, ("auditor",))
    return await service.token("audrey")


async def head(database: Dsns) -> int:
    connection = await connect(database.app)
    position: int = await connection.fetchval("SELECT position FROM log_head")
    await connection.close()
    return position


async def shown(service: Service, cookie: str, question: str) -> list[dict[str, Any]]:
    """The sessions on all pages."""
    found: list[dict[str, Any]] = []
    path = f"{PATH}?{question}"
    while True:
        page = await service.get(path, cookie=cookie)
        assert page.status == 200, page
        assert page.headers["Cache-Control"] == "no-store"
        found += page.json["sessions"]
        if "next" not in page.json:
            assert "Link" not in page.headers
            return found
        assert page.headers["Link"] == f'<{page.json["next"]}>; rel="next"'
        path = page.json["next"]


async def test_who_was_logged_in_and_how_it_ended(
    service: Service, auditor: str, database: Dsns
) -> None:
    await service.register("alice")
    alice = await service.token("alice")
    me = (await service.get("/v1/me", cookie=alice)).json
    both, then = await head(database), utc_now()
    await service.post("/v1/logout_user", cookie=alice)
    gone = await head(database)
    for question in (f"position={both}", f"at={quote(then.isoformat())}"):
        hers, auditors = await shown(service, auditor, question)
        assert hers["session_id"] == me["session_id"]
        assert hers["user_id"] == me["user_id"]
        assert hers["position"] == both
        assert hers["ended"]["reason"] == "logout"
        assert hers["ended"]["position"] == gone
        assert datetime.fromisoformat(hers["ended"]["at"]) > then - timedelta(seconds=1)
        assert auditors["ended"] is None
        assert "token_digest" not in hers
    assert await shown(service, auditor, f"position={gone}") == [auditors]
    assert await shown(service, auditor, f"position={both}&user={me['user_id']}") == [hers]
    assert await shown(service, auditor, f"position={both}&user={new_random_id()}") == []
    assert await shown(service, auditor, f"position={both}&limit=1") == [hers, auditors]


async def test_reading_it_is_recorded(service: Service, auditor: str, database: Dsns) -> None:
    await shown(service, auditor, "position=1")
    connection = await connect(database.app)
    assert await connection.fetchval("SELECT count(*) FROM events WHERE type = 'audit_read'") == 1
    await connection.close()


async def test_roles(service: Service, auditor: str) -> None:
    await service.register("alice")
    alice = await service.token("alice")
    assert (await service.get(f"{PATH}?position=1")).status == 401
    assert (await service.get(f"{PATH}?position=1", cookie=alice)).code == "forbidden"
    assert (await service.get(f"{PATH}?position=1", cookie=auditor)).status == 200


@pytest.mark.parametrize(
    "question",
    [
        "",
        "position=0",
        "position=-1",
        "position=x",
        "position=99999999",
        "position=1&position=2",
        "position=99999999999999999999",
        "position=1&at=2026-01-01T00:00:00Z",
        "at=yesterday",
        "at=2026-01-01",
        "at=9999-01-01T00:00:00Z",
        "position=1&limit=0",
        "position=1&limit=1001",
        "position=1&user=alice",
        "position=1&before=x",
        "position=1&session=x",
        "position=1&order=asc&colour=red",
    ],
)
async def test_what_makes_no_sense_is_refused(
    service: Service, auditor: str, question: str
) -> None:
    answer = await service.get(f"{PATH}?{question}", cookie=auditor)
    assert (answer.status, answer.code) == (422, "invalid_input")


async def test_before_the_first_event_there_is_nobody(service: Service, auditor: str) -> None:
    assert await shown(service, auditor, "at=1970-01-01T00:00:00Z") == []


async def test_what_was_purged_is_gone(service: Service, auditor: str, database: Dsns) -> None:
    owner = await connect(database.owner, role=None)
    await owner.execute(
        "INSERT INTO purges SELECT 1, recorded_at, now(), gen_random_uuid(), now(), now()"
        " FROM events WHERE position = 2"
    )
    await owner.close()
    for question in ("at=1970-01-01T00:00:00Z",):
        answer = await service.get(f"{PATH}?{question}", cookie=auditor)
        assert (answer.status, answer.code) == (410, "purged")
    assert (await service.get(f"{PATH}?position=1", cookie=auditor)).status == 200


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(
        st.sampled_from(["at", "position", "user", "before", "limit", "x"]),
        st.one_of(st.text(max_size=20), st.integers(0, 2**64).map(str)),
    )
)
async def test_any_parameters_get_an_answer(
    service: Service, auditor: str, question: dict[str, str]
) -> None:
    text = "&".join(f"{name}={quote(value, safe='')}" for name, value in question.items())
    answer = await service.get(f"{PATH}?{text}", cookie=auditor)
    assert answer.status in {200, 422}
