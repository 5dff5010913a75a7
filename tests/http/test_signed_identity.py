"""Signed identities over HTTP, checked by the code that the documentation prints."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import jwt
import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gatelog import setup
from gatelog.config import Config, load_config
from gatelog.errors import ConfigError
from gatelog.hosting.app import create_app
from gatelog.http.signed_identity import IDENTITY_SIGNER
from gatelog.log.store.database import Database
from gatelog.master_keys import format_master_keys, master_key_id
from gatelog.privacy.service.keyring import Keyring
from gatelog.privacy.service.rotation import rotate
from gatelog.privacy.store.keys import KeyStore
from gatelog.sessions.rules.identity_tokens import SigningKeys
from gatelog.sessions.service.identity import MAX_TOKENS
from gatelog.testing.moving import MovedClock

from tests.conftest import Dsns
from tests.forward_auth.proxies import printed
from tests.serving import Service, serving

ISSUER = "https://app.example"
ORDERS = "/v1/auth?audience=orders"
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def config(config: Config) -> Config:
    return msgspec.structs.replace(
        config, identity_issuer=ISSUER, trusted_proxies="127.0.0.1", session_lifetime_s=3600
    )


@pytest.fixture
def moved() -> Iterator[MovedClock]:
    clock = MovedClock()
    yield clock
    clock.reset()


def api(service: Service, audience: str = "orders") -> Any:
    """An API of this name: the printed code, which fetches the keys from this service."""
    names: dict[str, Any] = {}
    code = printed("python")
    keys = 'f"{ISSUER}/.well-known/jwks.json"'
    assert code.count(keys) == code.count('"orders"') == 1
    code = code.replace(keys, f'"http://127.0.0.1:{service.port}/.well-known/jwks.json"')
    exec(code.replace('"orders"', repr(audience)), names)  # noqa: S102 (of our own page)
    return SimpleNamespace(**names)


async def read(service: Service, token: str, audience: str = "orders") -> dict[str, Any]:
    """What this API makes of the token, in a thread: it fetches keys as it likes."""
    return dict(await asyncio.to_thread(api(service, audience).who, token))


async def signed(service: Service, path: str = ORDERS, **who: Any) -> str:
    answer = await service.get(path, **who)
    assert answer.status == 200, answer
    return answer.headers["X-Gatelog-Identity"]


async def test_an_api_learns_who_it_is(alice: Service) -> None:
    cookie = await alice.token()
    me = (await alice.get("/v1/me", cookie=cookie)).json
    token = await signed(alice, cookie=cookie)
    told = await read(alice, token)
    assert (told["iss"], told["aud"]) == (ISSUER, "orders")
    assert (told["sub"], told["sid"], told["roles"]) == (me["user_id"], me["session_id"], [])
    assert 0 < told["exp"] - told["iat"] <= 30
    listed = (await alice.get("/.well-known/jwks.json")).json["keys"]
    assert [key["kid"] for key in listed] == [jwt.get_unverified_header(token)["kid"]]
    assert listed[0].keys() == {"kid", "x", "kty", "crv", "alg", "use"}, "nothing private"


async def test_every_way_to_ask(alice: Service) -> None:
    cookie = await alice.token()
    token = await signed(alice, cookie=cookie)
    for method in ("GET", "HEAD", "POST", "DELETE"):
        for path in (ORDERS, "/v1/%61uth?login=header&audience=orders"):
            answer = await alice.send(method, path, cookie=cookie)
            assert answer.headers["X-Gatelog-Identity"] == token
    for path in ("/v1/auth", "/v1/auth?login=header"):
        assert await signed(alice, path, cookie=cookie) == "", "the proxy does not say for whom"
    assert (await alice.get(ORDERS)).status == 401


@pytest.mark.parametrize(
    "query",
    [
        "audience=",
        "audience=a&audience=a",
        "audience=a%20b",
        "audience=%0D%0AX:1",
        "audience=a%22b",
        "audience=%C3%A9",
        "audience=" + "a" * 256,
        "Audience=a",
    ],
)
async def test_an_audience_that_is_none(alice: Service, query: str) -> None:
    answer = await alice.get(f"/v1/auth?{query}", cookie=await alice.token())
    assert (answer.status, answer.code) == (422, "invalid_input")


async def test_a_token_is_of_one_session_for_one_api(alice: Service, moved: MovedClock) -> None:
    first, second = await alice.token(), await alice.token()
    token = await signed(alice, cookie=first)
    assert await signed(alice, cookie=first) == token
    others = {
        await signed(alice, cookie=second),
        await signed(alice, "/v1/auth?audience=prices", cookie=first),
    }
    assert len(others | {token}) == 3
    moved.advance(14)
    assert await signed(alice, cookie=first) == token, "it has half of its life before it"
    moved.advance(1)
    assert await signed(alice, cookie=first) != token


async def test_a_logout_gives_no_more_tokens_and_ends_none(alice: Service) -> None:
    cookie = await alice.token()
    token = await signed(alice, cookie=cookie)
    await alice.post("/v1/logout_user", cookie=cookie)
    answer = await alice.get(ORDERS, cookie=cookie)
    assert (answer.status, "X-Gatelog-Identity" in answer.headers) == (401, False)
    assert (await read(alice, token))["exp"] > 0


async def test_only_a_proxy_gets_any(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, trusted_proxies="192.0.2.1")
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        bearer = await service.token()
        for headers in ({}, {"X-Forwarded-For": "192.0.2.1"}):
            answer = await service.get(ORDERS, bearer=bearer, headers=headers)
            assert (answer.status, answer.code) == (403, "forbidden")
            assert "X-Gatelog-Identity" not in answer.headers


async def test_inside_an_application_of_ones_own(config: Config, database: Dsns) -> None:
    app = web.Application()
    setup(app, msgspec.structs.replace(config, database_url=database.app), projector=False)
    async with serving(app, config) as service:
        await service.register()
        token = await signed(service, cookie=await service.token())
        assert (await read(service, token))["iss"] == ISSUER


async def test_none_by_default(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, identity_issuer="")
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        answer = await service.get(ORDERS, cookie=await service.token())
        assert (answer.status, answer.code) == (422, "invalid_input")
        assert (await service.get("/.well-known/jwks.json")).status == 404


@pytest.mark.parametrize(
    ("name", "value"), [("ISSUER", "a b"), ("ISSUER", 'a"'), ("TTL_S", "61"), ("TTL_S", "4")]
)
def test_settings_that_are_not_usable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"GATELOG_IDENTITY_{name}"):
        load_config({f"GATELOG_IDENTITY_{name}": value})


# --- an API that reads them as it is printed


def part(data: object) -> str:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def forged(token: str, public: str) -> Iterator[tuple[str, str]]:
    """What somebody makes of a good token who has no key: what it is, and the token."""
    head, claims, signature = token.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    told = json.loads(base64.urlsafe_b64decode(claims + "=="))
    admin = part(told | {"roles": ["admin"]})
    yield "other claims", f"{head}.{admin}.{signature}"
    yield "no signature", f"{head}.{admin}."
    for none in ("none", "None", "NONE"):
        yield "alg none", f"{part(header | {'alg': none})}.{admin}."
    key = base64.urlsafe_b64decode(public + "=")
    for secret in (key, public.encode(), b""):
        start = f"{part(header | {'alg': 'HS256'})}.{admin}"
        mac = hmac.digest(secret, start.encode(), hashlib.sha256)
        yield "the public key as a secret", f"{start}.{part(mac)}"
    own = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
    for more in ({"kid": header["kid"]}, {"kid": "mine"}, {"kid": "../../mine"}, {}):
        yield "a key of one's own", jwt.encode(told, own, "EdDSA", more)
    carried = {
        "kid": header["kid"],
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": part(own.public_key().public_bytes_raw())},
    }
    yield "that brings its key along", jwt.encode(told, own, "EdDSA", carried)
    yield "nothing", ""
    yield "the header twice", f"{token},{token}"


async def test_what_an_api_takes_for_true(alice: Service, moved: MovedClock) -> None:
    token = await signed(alice, cookie=await alice.token())
    (key,) = (await alice.get("/.well-known/jwks.json")).json["keys"]
    await read(alice, token)
    for what, other in forged(token, key["x"]):
        with pytest.raises(jwt.PyJWTError):
            pytest.fail(f"{what}: {await read(alice, other)}")
    with pytest.raises(jwt.InvalidAudienceError):
        await read(alice, token, "prices")
    asked = api(alice)
    asked.who.__globals__["ISSUER"] = "https://other.example"
    with pytest.raises(jwt.InvalidIssuerError):
        await asyncio.to_thread(asked.who, token)


async def test_a_token_is_over_at_its_end(config: Config, database: Dsns) -> None:
    """PyJWT's clock is not ours to move: the token is one of a service that is behind."""
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        cookie, signer = await service.token(), service.runner.app[IDENTITY_SIGNER]
        fresh = await signed(service, cookie=cookie)
        now_us = signer._now_us
        signer._now_us = lambda: now_us() - 31_000_000
        over = await signed(service, cookie=cookie)
        assert over != fresh
        with pytest.raises(jwt.ExpiredSignatureError):
            await read(service, over)


# --- keys


def with_keys(config: Config, *keys: bytes) -> Config:
    text = format_master_keys({master_key_id(key): key for key in keys})
    return msgspec.structs.replace(config, master_key=text)


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


@pytest.fixture
async def two(config: Config, database: Dsns) -> AsyncIterator[tuple[Service, Service]]:
    """Two hosts on one database, with a new master key in front of the one that is current."""
    first = create_app(with_keys(config, OLD), database.app)
    async with serving(first, config) as service:
        await service.register()
        await signed(service, cookie=await service.token())
    both = with_keys(config, NEW, OLD)
    apps = [create_app(both, database.app) for _ in range(2)]
    async with serving(apps[0], both) as one, serving(apps[1], both) as other:
        yield one, other


async def listed(service: Service) -> set[str]:
    return {key["kid"] for key in (await service.get("/.well-known/jwks.json")).json["keys"]}


async def test_all_hosts_sign_alike_and_a_rotation_refuses_no_token(
    two: tuple[Service, Service], config: Config, database: Dsns, moved: MovedClock
) -> None:
    cookie = await two[0].token()
    before = [await signed(host, cookie=cookie) for host in two]
    assert len({kid(token) for token in before}) == 1
    for host in two:
        assert len(await listed(host)) == 2, "the next one is known before it signs"
    await rotate(with_keys(config, NEW, OLD), database.app)

    kids = []
    for _ in range(20):
        moved.advance(10)
        for host in two:
            await host.runner.app[IDENTITY_SIGNER].look()
        for host, other in (two, two[::-1]):
            token = await signed(host, cookie=cookie)
            assert kid(token) in await listed(other)
            kids.append(kid(token))
    assert kids[0] == kid(before[0]) != kids[-1]
    assert kids == sorted(kids, key=lambda each: each != kids[0]), "once, and not back"


async def test_a_new_key_in_the_file_is_found(
    config: Config, database: Dsns, moved: MovedClock
) -> None:
    """The rotation takes the old one out of the file at once; what it has signed stays good."""
    config = msgspec.structs.replace(config, master_key="")
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        cookie = await service.token()
        old = await signed(service, cookie=cookie)
        await rotate(config, database.app)
        moved.advance(2)
        assert len(await listed(service)) == 2
        await read(service, old)
        moved.advance(61)
        await listed(service)
        new = await signed(service, cookie=cookie)
        assert kid(new) != kid(old)
        assert await listed(service) == {kid(old), kid(new)}
        moved.advance(121)
        assert await listed(service) == {kid(new)}


def unreachable(config: Config) -> Keyring:
    return Keyring(config, KeyStore(Database(NOBODY, timeout_s=1, pool_size=1)))


async def test_without_the_database_what_is_known_goes_on(
    alice: Service, config: Config, moved: MovedClock
) -> None:
    cookie = await alice.token()
    token = await signed(alice, cookie=cookie)
    alice.runner.app[IDENTITY_SIGNER]._keyring = unreachable(config)
    moved.advance(20)
    fresh = await signed(alice, cookie=cookie)
    assert (fresh == token, kid(fresh)) == (False, kid(token))
    assert await listed(alice) == {kid(token)}


async def test_before_a_key_is_known_there_is_no_token(alice: Service, config: Config) -> None:
    cookie, signer = await alice.token(), alice.runner.app[IDENTITY_SIGNER]
    signer._keyring, signer._keys, signer._looked_us = unreachable(config), SigningKeys(), 0
    for path in (ORDERS, "/.well-known/jwks.json"):
        answer = await alice.get(path, cookie=cookie)
        assert (answer.status, answer.code) == (503, "database_unavailable")
        assert "X-Gatelog-Identity" not in answer.headers


async def test_no_more_tokens_are_kept_than_there_is_room_for(alice: Service) -> None:
    cookie, signer = await alice.token(), alice.runner.app[IDENTITY_SIGNER]
    first = await signed(alice, cookie=cookie)
    (key,) = signer._tokens
    token = signer._tokens[key]
    for number in range(MAX_TOKENS):
        signer._keep((key[0], str(number)), token)
    assert len(signer._tokens) == MAX_TOKENS
    assert key not in signer._tokens, "the one that was made first"
    assert len(first) < 1024
