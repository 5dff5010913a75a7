"""Second factors over HTTP: enrolled, asked for, taken once, removed; roles that ask for one."""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b32decode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from xml.etree import ElementTree

import msgspec
import pytest
from aiohttp import web
from gatelog import recent_login, requires
from gatelog.accounts.rules.challenges import MOST_OF_A_USER, MOST_WRONG
from gatelog.accounts.rules.factors import MOST_FACTORS
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.accounts.web import ACCOUNTS
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.log.store.rebuild import check, rebuild

from tests.accounts.factoring import Person, go_by
from tests.builders import MASTER_KEY
from tests.conftest import Clock, Dsns
from tests.serving import NEW_PASSWORD, PASSWORD, Service, serving
from tests.stack.service import RUN

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

ADMIN = "root"


@pytest.fixture
def clock() -> Clock:
    """Now: sessions are checked by the real clock."""
    clock = Clock()
    clock.now = utc_now()
    return clock


async def types(connection: Connection, since: int = 0) -> list[str]:
    rows = await connection.fetch(
        "SELECT type FROM events WHERE position > $1 ORDER BY position", since
    )
    return [row["type"] for row in rows]


async def reasons(connection: Connection) -> Counter[str]:
    rows = await connection.fetch("SELECT entry FROM events WHERE type = 'login_failed'")
    return Counter(json.loads(row["entry"])["reason"] for row in rows)


# --- TOTP


async def test_a_seed_is_offered_as_text_address_and_picture(alice: Service) -> None:
    offer = (await alice.post("/v1/factors/totp", bearer=await Person(alice).bearer())).json
    assert len(offer["secret"]) == 32
    assert offer["uri"].startswith("otpauth://totp/Gatelog:alice?secret=" + offer["secret"])
    assert "issuer=Gatelog" in offer["uri"]
    picture = ElementTree.fromstring(offer["qr_svg"])  # noqa: S314 - our own
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "script" not in offer["qr_svg"]


async def test_a_code_opens_what_the_password_alone_does_not(alice: Service) -> None:
    person = Person(alice)
    await person.enrolled()
    asked = await person.asked()
    assert (asked.status, asked.code) == (401, "factor_required")
    assert asked.json["factors"] == ["totp", "recovery_code"]
    assert "Set-Cookie" not in asked.headers
    assert "WWW-Authenticate" in asked.headers
    assert asked.headers["Cache-Control"] == "no-store"
    opened = await person.answer(asked.json["challenge"], code=person.code())
    assert opened.status == 200, opened
    assert (await alice.get("/v1/me", bearer=opened.token)).status == 200
    for nothing in (asked.json["challenge"], person.code(), person.recovery_codes[0]):
        assert (await alice.get("/v1/me", bearer=nothing)).status == 401


async def test_a_code_is_good_once(alice: Service, connection: Connection) -> None:
    person = Person(alice)
    await person.enrolled()
    assert (await person.both(code=person.code(-1))).code == "wrong_factor"  # it has confirmed
    code = person.code()
    assert (await person.both(code=code)).status == 200
    again = await person.both(code=code)
    assert (again.status, again.code) == (401, "wrong_factor")
    assert (await reasons(connection))["wrong_code"] == 2


async def test_the_clock_may_be_one_step_wrong(alice: Service, clock: Clock) -> None:
    go_by(alice, clock)
    person = Person(alice, now=clock)
    await person.enrolled()
    clock.advance(300)
    for wrong in (-3, -2, 2, 3):
        assert (await person.both(code=person.code(wrong))).code == "wrong_factor", wrong
    for right in (-1, 0, 1):  # each later than the one before
        half = person.code(right)
        assert (await person.both(code=f"{half[:3]} {half[3:]}")).status == 200, right
    assert (await person.both(code=person.code(0))).code == "wrong_factor"


async def test_a_code_once_on_two_hosts_at_the_same_time(
    config: Config, database: Dsns, connection: Connection, tmp_path: Path
) -> None:
    """Ten times over, and with recovery codes as well: of two who come at once, one gets in."""
    async with AsyncExitStack() as stack:
        hosts = []
        for name in ("a", "b"):
            own = msgspec.structs.replace(config, data_dir=str(tmp_path / name))
            app = create_app(own, database.app)
            hosts.append(await stack.enter_async_context(serving(app, own)))
        assert (await hosts[0].register()).status == 201
        people = [Person(host) for host in hosts]
        await people[0].enrolled()
        people[1].seed = people[0].seed
        for n in range(10):
            await connection.execute("UPDATE factors SET counter = 0")
            for answer in (
                {"code": people[0].code()},
                {"recovery_code": people[0].recovery_codes[n]},
            ):
                challenges = [await person.challenge() for person in people]
                answers = await asyncio.gather(
                    *(p.answer(c, **answer) for p, c in zip(people, challenges, strict=True))
                )
                assert sorted(one.status for one in answers) == [200, 401], answers
            # and of two answers to one challenge, with different codes
            await connection.execute("UPDATE factors SET counter = 0")
            challenge = await people[0].challenge()
            answers = await asyncio.gather(
                *(p.answer(challenge, code=p.code(m)) for m, p in enumerate(people))
            )
            assert sorted(one.status for one in answers) == [200, 401], answers
        # and of two who enrol the same offer
        bearer = (await people[0].asked()).json["challenge"]
        opened = await people[0].answer(bearer, code=people[0].code(1))
        if opened.status == 401:  # that step was the last one's
            await connection.execute("UPDATE factors SET counter = 0")
            opened = await people[0].both(code=people[0].code())
        offer = (await hosts[0].post("/v1/factors/totp", bearer=opened.token)).json
        other = Person(hosts[0])
        other.seed = b32decode(offer["secret"])
        body = {"challenge": offer["challenge"], "code": other.code()}
        answers = await asyncio.gather(
            *(
                host.post("/v1/factors/totp/confirm", json=body, bearer=opened.token)
                for host in hosts
            )
        )
        assert sorted(one.status for one in answers) == [201, 401]
    report = await check(database.app)
    assert report.differences == []


async def test_what_does_not_confirm_a_seed(alice: Service, connection: Connection) -> None:
    person = Person(alice)
    bearer = await person.bearer()
    offer = (await alice.post("/v1/factors/totp", bearer=bearer)).json
    person.seed = b32decode(offer["secret"])
    confirm = "/v1/factors/totp/confirm"
    right = {"challenge": offer["challenge"], "code": person.code()}
    other = await person.bearer()
    assert (await alice.post(confirm, json=right, bearer=other)).code == "challenge_over"
    for text in (
        "",
        "12345",
        "1234567",
        "abcdef",
        "\uff11\uff12\uff13\uff14\uff15\uff16",
        person.wrong_code(),
    ):
        wrong = await alice.post(confirm, json=right | {"code": text}, bearer=bearer)
        if wrong.code == "challenge_over":
            break
        assert (wrong.status, wrong.code) == (409, "wrong_code")
    assert (await alice.post(confirm, json=right, bearer=bearer)).code == "challenge_over"
    assert (await alice.get("/v1/factors", bearer=bearer)).json["factors"] == []
    assert (await person.asked()).status == 200
    assert "factor_enrolled" not in await types(connection)


# --- recovery codes


async def test_each_recovery_code_opens_once(alice: Service, connection: Connection) -> None:
    person = Person(alice)
    bearer = await person.enrolled()
    assert len(set(person.recovery_codes)) == 10
    stored = await connection.fetch("SELECT code_digest FROM recovery_codes")
    assert len(stored) == 10
    text = str([*stored, *await connection.fetch("SELECT entry FROM events")])
    for code in person.recovery_codes:
        assert code not in text
    for code in person.recovery_codes[:2]:
        typed = f" {code.upper().replace('-', ' ')} "
        assert (await person.both(recovery_code=typed)).status == 200
        assert (await person.both(recovery_code=code)).code == "wrong_factor"
    listed = (await alice.get("/v1/factors", bearer=bearer)).json
    assert listed["recovery_codes"] == 8
    for wrong in ("", "-", "x" * 5000, "abcdef-" * 4, person.recovery_codes[0][:-1]):
        assert (await person.both(recovery_code=wrong)).code == "wrong_factor"
    rows = await connection.fetch("SELECT entry FROM events WHERE type = 'recovery_code_used'")
    assert [json.loads(row["entry"])["count"] for row in rows] == [9, 8]


async def test_new_codes_void_those_of_before(alice: Service) -> None:
    person = Person(alice)
    assert (
        await alice.post("/v1/factors/recovery_codes", bearer=await person.bearer())
    ).status == 409
    await person.enrolled()
    bearer = (await person.both(code=person.code())).token
    old = person.recovery_codes
    made = await alice.post("/v1/factors/recovery_codes", bearer=bearer)
    assert made.status == 200
    assert (await person.both(recovery_code=old[0])).code == "wrong_factor"
    assert (await person.both(recovery_code=made.json["recovery_codes"][0])).status == 200


# --- challenges


async def test_a_challenge_is_good_for_one_right_answer(alice: Service) -> None:
    person = Person(alice)
    await person.enrolled()
    challenge = await person.challenge()
    assert (await person.answer(challenge, code=person.code())).status == 200
    again = await person.answer(challenge, recovery_code=person.recovery_codes[0])
    assert (again.status, again.code) == (401, "challenge_over")
    assert (await person.both(recovery_code=person.recovery_codes[0])).status == 200


async def test_a_challenge_is_good_for_so_many_wrong_answers(alice: Service) -> None:
    person = Person(alice)
    await person.enrolled()
    challenge = await person.challenge()
    for _ in range(MOST_WRONG):
        assert (await person.answer(challenge, code=person.wrong_code())).code == "wrong_factor"
    assert (await person.answer(challenge, code=person.code())).code == "challenge_over"


async def test_a_user_has_so_many_challenges(alice: Service, connection: Connection) -> None:
    person = Person(alice)
    await person.enrolled()
    challenges = [await person.challenge() for _ in range(MOST_OF_A_USER + 3)]
    assert await connection.fetchval("SELECT count(*) FROM challenges") == MOST_OF_A_USER
    assert (await person.answer(challenges[2], code=person.code())).code == "challenge_over"
    assert (await person.answer(challenges[-1], code=person.code())).status == 200


async def test_a_challenge_is_over_in_time_and_swept(
    alice: Service, clock: Clock, connection: Connection
) -> None:
    go_by(alice, clock)
    person = Person(alice, now=clock)
    await person.enrolled()
    first, second = await person.challenge(), await person.challenge()
    clock.advance(299)
    assert (await person.answer(first, code=person.code())).status == 200
    clock.advance(1)
    assert (await person.answer(second, code=person.code(1))).code == "challenge_over"
    clock.advance(3601)
    await alice.runner.app[ACCOUNTS].logins.forget_overdue()
    assert await connection.fetchval("SELECT count(*) FROM challenges") == 0


async def test_what_changes_the_credentials_voids_a_challenge(alice: Service) -> None:
    person = Person(alice)
    await person.enrolled()
    bearer = (await person.both(code=person.code())).token
    challenge = await person.challenge()
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await alice.post("/v1/change_password", json=change, bearer=bearer)).status == 200
    late = await person.answer(challenge, recovery_code=person.recovery_codes[0])
    assert late.code == "challenge_over"
    person.password = NEW_PASSWORD
    assert (await person.both(recovery_code=person.recovery_codes[0])).status == 200


async def test_a_challenge_is_for_one_user_and_purpose(alice: Service) -> None:
    await alice.register("bob")
    person, bob = Person(alice), Person(alice, "bob")
    await person.enrolled()
    bobs = await bob.enrolled()
    theirs = await bob.challenge()
    assert (await person.answer(theirs, code=person.code())).code == "wrong_factor"
    assert (await person.answer(theirs, recovery_code=person.recovery_codes[0])).status == 401
    session = (await bob.both(code=bob.code())).token
    offered = (await alice.post("/v1/factors/totp", bearer=session)).json["challenge"]
    assert (await bob.answer(offered, recovery_code=bob.recovery_codes[0])).code == "challenge_over"
    confirm = {"challenge": await bob.challenge(), "code": bob.code()}
    tried = await alice.post("/v1/factors/totp/confirm", json=confirm, bearer=session)
    assert tried.code == "challenge_over"
    assert (await alice.get("/v1/me", bearer=bobs)).status == 200


@pytest.mark.parametrize(
    "answer",
    [{}, {"code": "123456", "recovery_code": "x"}, {"code": 123456}, {"passkey": "x"}, {"x": 1}],
)
async def test_one_answer_and_nothing_else(alice: Service, answer: Any) -> None:
    assert (await Person(alice).answer("x", **answer)).status == 422


# --- throttling


async def test_wrong_codes_are_throttled_like_passwords(
    config: Config, database: Dsns, connection: Connection
) -> None:
    """Who knows the password has no more guesses at codes than others have at it, and a right
    password in between gives none back."""
    config = msgspec.structs.replace(config, login_tries=5)
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        person = Person(service)
        await person.enrolled()
        statuses = []
        for _ in range(4):
            asked = await person.asked()
            statuses.append(asked.status)
            if asked.status == 401:
                statuses.append(
                    (await person.answer(asked.json["challenge"], code=person.wrong_code())).status
                )
        # password and code, twice; the password once more, and then it takes longer
        assert statuses == [401, 401, 401, 401, 401, 429, 429]
        assert (await reasons(connection)) == {"wrong_code": 2}


async def test_wrong_codes_lock_the_account_in_the_end(
    config: Config, database: Dsns, connection: Connection
) -> None:
    config = msgspec.structs.replace(config, password_failures=20)
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        person = Person(service)
        await person.enrolled()
        for _ in range(10):
            assert (await person.both(code=person.wrong_code())).code == "wrong_factor"
        assert (await person.asked()).code == "invalid_credentials"  # nothing fits any more
        assert "password_locked" in await types(connection)


async def test_a_right_factor_forgives(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, login_tries=5)
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        person = Person(service)
        await person.enrolled()
        for code in person.recovery_codes:
            assert (await person.both(recovery_code=code)).status == 200


# --- to enrol and to remove


async def test_sessions_end_with_it_when_asked_to(alice: Service) -> None:
    person = Person(alice)
    other, bearer = await person.bearer(), await person.bearer()
    enrolled = await person.enrol_seed(bearer)
    assert enrolled.json["ended"] == 0
    assert (await alice.get("/v1/me", bearer=other)).status == 200
    bearer = (await person.both(code=person.code())).token
    enrolled = await person.enrol_seed(bearer, end_others=True)
    assert enrolled.json["ended"] == 2
    assert enrolled.json.get("recovery_codes", []) == []  # they are there
    assert (await alice.get("/v1/me", bearer=other)).status == 401
    assert (await alice.get("/v1/me", bearer=bearer)).status == 200


async def test_removed_it_opens_nothing_and_is_not_asked_for(
    alice: Service, connection: Connection, database: Dsns
) -> None:
    person = Person(alice)
    await person.enrolled()
    bearer = (await person.both(code=person.code())).token
    assert (await alice.send("DELETE", f"/v1/factors/{uuid4()}", bearer=bearer)).status == 404
    challenge = await person.challenge()
    path = f"/v1/factors/{person.factor_id}?end_others=true"
    gone = await alice.send("DELETE", path, bearer=bearer)
    assert (gone.status, gone.json["ended"]) == (200, 1)
    assert (await person.answer(challenge, code=person.code(1))).code == "challenge_over"
    assert await connection.fetchval("SELECT count(*) FROM recovery_codes") == 0
    assert (await person.asked()).status == 200
    assert (await check(database.app)).differences == []


async def test_what_takes_a_recent_login(alice: Service, clock: Clock) -> None:
    person = Person(alice)
    bearer = await person.bearer()
    logins = alice.runner.app[ACCOUNTS].logins
    clock.advance(-1000)
    logins._acting.now = clock
    old = await person.bearer()
    logins._acting.now = utc_now
    for method, path, body in (
        ("POST", "/v1/factors/totp", None),
        ("POST", "/v1/factors/totp/confirm", {"challenge": "x", "code": "1"}),
        ("POST", "/v1/factors/passkeys", None),
        ("POST", "/v1/factors/passkeys/confirm", {"challenge": "x", "passkey": {}}),
        ("POST", "/v1/factors/recovery_codes", None),
        ("DELETE", f"/v1/factors/{uuid4()}", None),
    ):
        refused = await alice.send(method, path, json=body, bearer=old)
        assert refused.code == "recent_login_required", path
        assert (
            (await alice.send(method, path, json=body, bearer=bearer)).code != refused.code
            if (path != "/v1/factors/totp")
            else True
        )


async def test_who_has_one_changes_them_in_a_session_that_began_with_one(alice: Service) -> None:
    """Not even in the one in which the first was enrolled: a stolen session, or a password, binds
    no further factor to the account, and takes none off."""
    person = Person(alice)
    bearer = await person.enrolled()
    for method, path, body in (
        ("POST", "/v1/factors/totp", None),
        ("POST", "/v1/factors/recovery_codes", None),
        ("DELETE", f"/v1/factors/{person.factor_id}", None),
    ):
        refused = await alice.send(method, path, json=body, bearer=bearer)
        assert (refused.status, refused.code) == (401, "factor_login_required"), path
    bearer = (await person.both(code=person.code())).token
    assert (await alice.post("/v1/factors/totp", bearer=bearer)).status == 200


async def test_a_session_says_by_which_methods_it_began(alice: Service) -> None:
    person = Person(alice)

    async def amr(bearer: str) -> list[str]:
        return list((await alice.get("/v1/me", bearer=bearer)).json["amr"])

    assert await amr(await person.enrolled()) == ["pwd"]
    assert await amr((await person.both(recovery_code=person.recovery_codes[0])).token) == [
        "mfa",
        "pwd",
    ]
    bearer = (await person.both(code=person.code())).token
    assert await amr(bearer) == ["mfa", "otp", "pwd"]
    before = (await alice.get("/v1/me", bearer=bearer)).json["authenticated_at"]
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    fresh = (await alice.post("/v1/change_password", json=change, bearer=bearer)).token
    assert await amr(fresh) == ["mfa", "otp", "pwd"]
    assert (await alice.get("/v1/me", bearer=fresh)).json["authenticated_at"] == before


@requires("auditor", amr="mfa")
async def with_both(_: web.Request) -> web.Response:
    return web.json_response("both")


@recent_login(minutes=5, amr="otp")
async def with_code(_: web.Request) -> web.Response:
    return web.json_response("code")


async def test_an_application_asks_for_factors(config: Config, database: Dsns) -> None:
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user(ADMIN, PASSWORD, ("auditor",))
    routes = [web.get("/both", with_both), web.get("/code", with_code)]
    async with serving(create_app(config, database.app, routes), config) as service:
        await service.register()
        person, other = Person(service, ADMIN), Person(service)
        bearer = await person.bearer()
        for path in ("/both", "/code"):
            refused = await service.get(path, bearer=bearer)
            assert (refused.status, refused.code) == (401, "factor_login_required")
        await person.enrol_seed(bearer)
        await other.enrolled()
        by_recovery = (await person.both(recovery_code=person.recovery_codes[0])).token
        by_code = (await person.both(code=person.code())).token
        others = (await other.both(code=other.code())).token
        assert [
            (await service.get(path, bearer=token)).status
            for path in ("/both", "/code")
            for token in (by_recovery, by_code, others)
        ] == [200, 200, 403, 401, 200, 200]
    with pytest.raises(ValueError, match="name the roles"):
        requires()


async def test_others_factors_are_nobodys(alice: Service) -> None:
    await alice.register("bob")
    person, bob = Person(alice), Person(alice, "bob")
    await person.enrolled()
    bearer = await bob.bearer()
    refused = await alice.send("DELETE", f"/v1/factors/{person.factor_id}", bearer=bearer)
    assert refused.status == 404
    assert (await alice.get("/v1/factors", bearer=bearer)).json["factors"] == []
    assert (await person.asked()).code == "factor_required"


async def test_so_many_and_no_more(alice: Service, connection: Connection) -> None:
    person = Person(alice)
    await person.enrolled()
    for _ in range(MOST_FACTORS - 1):
        await connection.execute("UPDATE factors SET counter = 0")
        bearer = (await person.both(code=person.code())).token
        assert (await person.enrol_seed(bearer)).status == 201
    await connection.execute("UPDATE factors SET counter = 0")
    bearer = (await person.both(code=person.code())).token
    assert (await person.enrol_seed(bearer)).code == "too_many_factors"


# --- roles that ask for one


async def test_a_role_that_requires_a_factor(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, roles='{"admin": {"factors": true}}')
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user(ADMIN, PASSWORD, ("admin", "auditor"))
    async with serving(create_app(config, database.app), config) as service:
        person = Person(service, ADMIN)
        bearer = await person.bearer()

        async def roles(bearer: str) -> list[str]:
            return list((await service.get("/v1/me", bearer=bearer)).json["roles"])

        reset = f"/v1/users/{uuid4()}/remove_factors"
        assert await roles(bearer) == ["auditor"]
        assert (await service.post(reset, bearer=bearer)).code == "forbidden"
        # a new token for the same login has no more than that
        change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        bearer = (await service.post("/v1/change_password", json=change, bearer=bearer)).token
        person.password = NEW_PASSWORD
        assert await roles(bearer) == ["auditor"]
        await person.enrol_seed(bearer)
        assert await roles(bearer) == ["auditor"]
        bearer = (await person.both(code=person.code())).token
        assert await roles(bearer) == ["admin", "auditor"]
        assert (await service.post(reset, bearer=bearer)).status == 404
        change = {"current_password": NEW_PASSWORD, "new_password": PASSWORD}
        bearer = (await service.post("/v1/change_password", json=change, bearer=bearer)).token
        assert await roles(bearer) == ["admin", "auditor"]
        assert (
            await service.send("DELETE", f"/v1/factors/{person.factor_id}", bearer=bearer)
        ).status == 200
        person.password = PASSWORD
        assert await roles(await person.bearer()) == ["auditor"]


# --- who has lost them, and who is gone


@pytest.fixture
async def with_admin(config: Config, database: Dsns) -> AsyncIterator[Service]:
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user(ADMIN, PASSWORD, ("admin",))
    async with serving(create_app(config, database.app), config) as service:
        assert (await service.register()).status == 201
        yield service


async def test_an_administrator_removes_them(
    with_admin: Service, connection: Connection, database: Dsns
) -> None:
    person, admin = Person(with_admin), Person(with_admin, ADMIN)
    bearer = await person.enrolled()
    bearer = (await person.both(code=person.code())).token
    await person.enrol_seed(bearer)
    user_id = (await with_admin.get("/v1/me", bearer=bearer)).json["user_id"]
    reset = f"/v1/users/{user_id}/remove_factors"
    before = len(await types(connection))
    gone = await with_admin.post(reset, bearer=await admin.bearer())
    assert (gone.json["status"], gone.json["ended"]) == ("factors_removed", 2)
    assert (await types(connection, before + 1)) == [
        *["factor_removed"] * 2,
        *["session_ended"] * 2,
    ]
    assert (await person.asked()).status == 200
    again = await with_admin.post(reset, bearer=await admin.bearer())
    assert again.json["ended"] == 0
    assert (await check(database.app)).differences == []


async def test_an_operator_removes_them(alice: Service, database: Dsns, tmp_path: Path) -> None:
    person = Person(alice)
    await person.enrolled()
    process = await asyncio.create_subprocess_exec(
        *RUN,
        *("user", "remove-factors", "alice", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ
        | {
            "GATELOG_DATABASE_URL": database.app,
            "GATELOG_OWNER_DATABASE_URL": database.owner,
            "GATELOG_MASTER_KEY": MASTER_KEY,
            "GATELOG_DATA_DIR": str(tmp_path / "operator"),
            "GATELOG_LEASE_TTL_S": "0.1",
        },
    )
    out, _ = await process.communicate()
    assert json.loads(out) == {"login": "alice", "status": "factors_removed", "ended": 1}
    assert (await person.asked()).status == 200


async def test_erased_with_their_user(with_admin: Service, connection: Connection) -> None:
    person, admin = Person(with_admin), Person(with_admin, ADMIN)
    bearer = await person.enrolled()
    challenge = await person.challenge()
    user_id = (await with_admin.get("/v1/me", bearer=bearer)).json["user_id"]
    erase = f"/v1/users/{user_id}/erase"
    assert (await with_admin.post(erase, bearer=await admin.bearer())).status == 200
    for table in ("factors", "recovery_codes", "challenges"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert (await person.answer(challenge, code=person.code())).code == "challenge_over"


async def test_the_secrets_open_with_their_users_key_alone(
    alice: Service, connection: Connection
) -> None:
    person = Person(alice)
    await person.enrolled()
    sealed = await connection.fetchval("SELECT sealed FROM factors")
    for plain in (person.seed, b"Authenticator"):
        assert plain not in sealed
    await connection.execute("UPDATE factors SET factor_id = gen_random_uuid()")
    assert (await person.asked()).status == 503  # moved to another place it opens nothing


# --- the log, and older programs


async def test_the_log_tells_of_them_and_of_nobody(
    alice: Service, connection: Connection, database: Dsns
) -> None:
    person = Person(alice)
    bearer = await person.enrolled()
    await person.both(code=person.code())
    assert [name for name in await types(connection) if name != "session_started"] == [
        "user_registered",
        "factor_enrolled",
        "recovery_codes_made",
    ]
    own = (await alice.get("/v1/me/events?type=factor_enrolled", bearer=bearer)).json["events"]
    assert own[0]["factor_id"] == person.factor_id
    assert own[0]["factor"] == "totp"
    assert own[0]["login"] == "alice"
    assert (await check(database.app)).differences == []
    assert (await rebuild(database.owner)).changed == 0


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM factors",
        "UPDATE users SET factors = 0",
        "UPDATE credentials SET password_hash = guarded_hash, guarded_hash = NULL",
    ],
)
async def test_what_is_taken_away_behind_the_log_is_found(
    alice: Service, connection: Connection, database: Dsns, harm: str
) -> None:
    """And opens nothing: there is no way back to the password alone."""
    person = Person(alice)
    await person.enrolled()
    await connection.execute(harm)
    assert (await check(database.app)).differences != []
    assert (await person.asked()).code == "factor_required"


async def test_an_older_program_lets_nobody_in_by_the_password_alone(
    alice: Service, config: Config, connection: Connection
) -> None:
    """What it verifies (``password_hash``) is of the same form and cost, and fits nothing."""
    passwords = PasswordPool(config)
    person = Person(alice)
    older = "SELECT password_hash FROM credentials"
    assert await passwords.verify(await connection.fetchval(older), PASSWORD)
    await person.enrolled()
    covered = await connection.fetchval(older)
    assert not await passwords.verify(covered, PASSWORD)
    assert not passwords.needs_rehash(covered)
    bearer = (await person.both(code=person.code())).token
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    bearer = (await alice.post("/v1/change_password", json=change, bearer=bearer)).token
    person.password = NEW_PASSWORD
    assert (await person.asked()).code == "factor_required"
    covered = await connection.fetchval(older)
    assert not await passwords.verify(covered, NEW_PASSWORD)
    await alice.send("DELETE", f"/v1/factors/{person.factor_id}", bearer=bearer)
    assert await passwords.verify(await connection.fetchval(older), NEW_PASSWORD)
    passwords.close()
