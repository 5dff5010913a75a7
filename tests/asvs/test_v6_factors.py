"""OWASP ASVS 5.0, V6.3.3, V6.5 and V6.7, and NIST SP 800-63B-4, 3: second factors."""

from __future__ import annotations

from base64 import b32decode, urlsafe_b64decode
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.accounts.rules.factor_secrets import CODE_BYTES, code_digest
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.hosting.app import create_app
from playwright.sync_api import Error as PlaywrightError

from tests.accounts.factoring import Person, go_by
from tests.asvs.conftest import AddUser
from tests.browser import Browser
from tests.conftest import Clock, Dsns
from tests.passkeys import Keys, Site, serving_site, with_keys
from tests.serving import PASSWORD, Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

NONCE_BITS = 64


@pytest.fixture
def clock() -> Clock:
    """Now: what is decided under the log's lock goes by the real clock."""
    clock = Clock()
    clock.now = utc_now()
    return clock


@pytest.fixture
async def site(config: Config, database: Dsns) -> AsyncIterator[Site]:
    async with serving_site(config, database) as site:
        yield site


async def test_v6_3_3(config: Config, database: Dsns, add_user: AddUser) -> None:
    """TOTP and passkeys ([factors](factors.md)): who has one needs it, and
    ``GATELOG_ROLES='{"admin": {"factors": true}}'`` gives a role to sessions alone that began with
    one. A passkey resists phishing, and signs when its user says so."""
    await add_user("root", "admin")
    config = msgspec.structs.replace(config, roles='{"admin": {"factors": true}}')
    async with serving(create_app(config, database.app), config) as service:
        person = Person(service, "root")
        bearer = await person.bearer()
        assert (await service.get("/v1/me", bearer=bearer)).json["roles"] == []
        await person.enrol_seed(bearer)
        assert (await person.asked()).code == "factor_required"
        bearer = (await person.both(code=person.code())).token
        assert (await service.get("/v1/me", bearer=bearer)).json["roles"] == ["admin"]


async def test_v6_4_4(alice: Service, root: str) -> None:
    """Who has lost a factor logs in with a recovery code, which stands for it and was given to them
    when they enrolled. Who has none left asks an administrator, who removes the factors; that is an
    event, it ends all sessions, and the user is told by mail."""
    person = Person(alice)
    await person.enrolled()
    alone = await alice.post(
        "/v1/login_factor", json={"challenge": await person.challenge(), "token": "bearer"}
    )
    assert alone.status == 422
    bearer = (await person.both(recovery_code=person.recovery_codes[0])).token
    user_id = (await alice.get("/v1/me", bearer=bearer)).json["user_id"]
    reset = f"/v1/users/{user_id}/remove_factors"
    assert (await alice.post(reset, bearer=bearer)).status == 403
    assert (await alice.post(reset, cookie=root)).status == 200
    assert (await alice.get("/v1/me", bearer=bearer)).status == 401


async def test_v6_5_1(alice: Service) -> None:
    """A recovery code and a TOTP code open once; of two that come at once, on whatever hosts, one
    is refused: the log's lock decides."""
    person = Person(alice)
    await person.enrolled()
    for answer in ({"code": person.code()}, {"recovery_code": person.recovery_codes[0]}):
        assert (await person.both(**answer)).status == 200
        assert (await person.both(**answer)).code == "wrong_factor"


async def test_v6_5_2(alice: Service, connection: Connection) -> None:
    """A recovery code has 120 random bits, and is kept as its SHA-256."""
    person = Person(alice)
    await person.enrolled()
    rows = await connection.fetch("SELECT subject_id, code_digest FROM recovery_codes")
    owner = rows[0]["subject_id"]
    assert {row["code_digest"] for row in rows} == {
        code_digest(code, owner) for code in person.recovery_codes
    }
    assert CODE_BYTES * 8 >= 112


async def test_v6_5_3(alice: Service) -> None:
    """Codes are made of 15 bytes of the operating system's generator, a seed of a challenge's 32;
    no two are alike."""
    bearer = await Person(alice).bearer()
    seeds = {
        (await alice.post("/v1/factors/totp", bearer=bearer)).json["secret"] for _ in range(20)
    }
    assert len(seeds) == 20
    assert all(len(b32decode(seed)) == 20 for seed in seeds)


async def test_v6_5_4(alice: Service) -> None:
    """A recovery code has 120 bits: 24 characters of base32, in four groups."""
    person = Person(alice)
    await person.enrolled()
    for code in person.recovery_codes:
        assert len(b32decode(code.replace("-", "").upper())) == CODE_BYTES


async def test_v6_5_5(alice: Service, clock: Clock) -> None:
    """A code is that of a step of 30 seconds. As clocks differ, that of the step before and of the
    one after is taken, too (RFC 6238, 5.2), and none beyond. A challenge between password and
    factor lives for five minutes."""
    go_by(alice, clock)
    person = Person(alice, now=clock)
    await person.enrolled()
    code = person.code()
    clock.advance(60)
    assert (await person.both(code=code)).code == "wrong_factor"
    challenge = await person.challenge()
    clock.advance(300)
    assert (await person.answer(challenge, code=person.code())).code == "challenge_over"


async def test_v6_5_6(alice: Service, root: str) -> None:
    """Its user removes a factor (``DELETE /v1/factors/{id}``), an administrator all that somebody
    has lost (``POST /v1/users/{id}/remove_factors``, ``gatelog user remove-factors``)."""
    person = Person(alice)
    await person.enrolled()
    bearer = (await person.both(code=person.code())).token
    user_id = (await alice.get("/v1/me", bearer=bearer)).json["user_id"]
    path = f"/v1/factors/{person.factor_id}"
    assert (await alice.send("DELETE", path, bearer=bearer)).status == 200
    assert (await person.asked()).status == 200
    await person.enrolled()
    challenge = await person.challenge()
    reset = f"/v1/users/{user_id}/remove_factors"
    assert (await alice.post(reset, cookie=root)).status == 200
    assert (await person.answer(challenge, code=person.code())).code == "challenge_over"
    assert (await person.asked()).status == 200


async def test_v6_5_8(alice: Service, clock: Clock) -> None:
    """A code goes by the host's clock; nothing that a client sends says what time it is."""
    go_by(alice, clock)
    person = Person(alice, now=clock)
    await person.enrolled()
    code = person.code()
    clock.advance(3600)
    told = {"time": "2026-01-01T00:00:00Z"}
    assert (await person.answer(await person.challenge(), code=code, **told)).status == 422
    assert (await person.both(code=code)).code == "wrong_factor"
    assert (await person.both(code=person.code())).status == 200


async def test_v6_7_1(alice: Service, connection: Connection) -> None:
    """Public keys and seeds are sealed under their user's key (AES-256-GCM, bound to the factor):
    one that was changed opens nothing, and the service says 503."""
    person = Person(alice)
    await person.enrolled()
    await connection.execute("UPDATE factors SET sealed = set_byte(sealed, 20, 0)")
    await connection.execute("UPDATE factors SET sealed = set_byte(sealed, 21, 1)")
    assert (await person.asked()).status == 503


async def test_v6_7_2(site: Site) -> None:
    """The nonce has 256 bits, and is another one each time."""
    nonces = set()
    for _ in range(20):
        asked = (await site.post("/v1/passkeys/login_options")).json
        nonces.add(asked["public_key"]["challenge"])
    assert len(nonces) == 20
    assert all(len(urlsafe_b64decode(f"{nonce}=")) * 8 >= NONCE_BITS for nonce in nonces)


async def test_nist_3_1_2(alice: Service) -> None:
    """Ten random recovery codes of 120 bits, each good once, kept hashed; wrong ones count like
    wrong passwords. Who makes new ones voids those of before."""
    person = Person(alice)
    await person.enrolled()
    assert len(set(person.recovery_codes)) == 10
    assert (await person.both(recovery_code=person.recovery_codes[0])).status == 200
    assert (await person.both(recovery_code=person.recovery_codes[0])).status == 401


async def test_nist_3_1_4(alice: Service, connection: Connection) -> None:
    """A code is taken once, in its step of 30 seconds and the ones beside it, with the limits of
    passwords. A seed has 160 bits, and is sealed under the user's key."""
    person = Person(alice)
    await person.enrolled()
    assert len(person.seed) * 8 >= 112
    assert person.seed not in await connection.fetchval("SELECT sealed FROM factors")
    code = person.code()
    assert (await person.both(code=code)).status == 200
    assert (await person.both(code=code)).status == 401


async def test_nist_3_1_7(site: Site, browser: Browser) -> None:
    """A passkey opens without a password where it has verified its user, and not otherwise."""

    def walk(keys: Keys) -> None:
        keys.enrolled()
        assert keys.opened()[0] == 200
        keys.verifies(False)
        _, asked = keys.post("/v1/passkeys/login_options")
        asked["public_key"]["userVerification"] = "discouraged"
        body = {"challenge": asked["challenge"], "passkey": keys.get(asked["public_key"])}
        assert keys.post("/v1/passkeys/login", body)[0] == 401

    await with_keys(site, browser, walk)


async def test_nist_3_2_5(site: Site, browser: Browser) -> None:
    """A passkey is bound to the host of GATELOG_PUBLIC_URL, and its answers to pages that are
    trusted: one that another page gets, if the browser gives it any, opens nothing. Passwords,
    codes and recovery codes resist no phishing."""

    def walk(keys: Keys) -> None:
        keys.enrolled()
        _, asked = keys.post("/v1/passkeys/login_options")
        public_key = asked["public_key"] | {"timeout": 1000}
        keys.page.goto(f"http://other.localhost:{site.port}/health/alive")
        with pytest.raises(PlaywrightError, match="NotAllowedError"):
            keys.get(public_key | {"rpId": "other.localhost"})
        try:
            passkey = keys.get(public_key)
        except PlaywrightError:
            return
        body = {"challenge": asked["challenge"], "passkey": passkey}
        keys.page.goto(f"{site.origin}/health/alive")
        assert keys.post("/v1/passkeys/login", body)[1]["code"] == "wrong_factor"

    await with_keys(site, browser, walk)


async def test_nist_3_2_7(site: Site, browser: Browser) -> None:
    """What a passkey has signed, a code and a recovery code open once: recorded, they open
    nothing."""

    def walk(keys: Keys) -> None:
        keys.enrolled()
        _, asked = keys.post("/v1/passkeys/login_options")
        body = {"challenge": asked["challenge"], "passkey": keys.get(asked["public_key"])}
        assert keys.post("/v1/passkeys/login", body)[0] == 200
        assert keys.post("/v1/passkeys/login", body)[0] == 401

    await with_keys(site, browser, walk)


async def test_nist_3_2_8(alice: Service) -> None:
    """A login is a POST with a password, a code, or what a passkey signs after its user has done
    something for it; nothing goes on by itself from the password to the factor."""
    person = Person(alice)
    await person.enrolled()
    asked = await person.asked()
    assert "Set-Cookie" not in asked.headers
    again = await alice.log_in(password=PASSWORD)
    assert again.code == "factor_required"
