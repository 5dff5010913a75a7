"""Passkeys end to end: Chromium's virtual authenticator, our handlers, and a log.

What a browser hands in goes over HTTP as a page would send it; what must not open anything is what
the same browser has made, bent.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from gatelog.config import Config

from tests.browser import Browser, fetched
from tests.conftest import Dsns
from tests.passkeys import Keys, Site, serving_site, with_keys
from tests.serving import PASSWORD, Answer, Service


@pytest.fixture
async def site(config: Config, database: Dsns) -> AsyncIterator[Site]:
    async with serving_site(config, database) as site:
        yield site


async def test_enrolled_and_used_after_the_password(site: Site, browser: Browser) -> None:
    def walk(keys: Keys) -> None:
        added = keys.enrolled()
        assert len(added["recovery_codes"]) == 10
        assert keys.post("/v1/logout_user")[0] == 200
        status, asked = keys.post("/v1/login_user", {"login": "alice", "password": PASSWORD})
        assert (status, asked["code"]) == (401, "factor_required")
        assert asked["factors"] == ["passkey", "recovery_code"]
        body = {"challenge": asked["challenge"], "passkey": keys.get(asked["public_key"])}
        status, opened = keys.post("/v1/login_factor", body)
        assert (status, opened["status"]) == (200, "logged_in")
        assert keys.post("/v1/login_factor", body)[1]["code"] == "challenge_over"
        status, _, text = fetched(keys.page, "/v1/factors")
        (listed,) = msgspec.json.decode(text)["factors"]
        assert (listed["factor"], listed["name"]) == ("passkey", "My laptop")
        assert listed["used_at"] is not None

    await with_keys(site, browser, walk)


async def test_in_the_place_of_the_password(site: Site, browser: Browser) -> None:
    def walk(keys: Keys) -> Any:
        keys.enrolled()
        assert keys.post("/v1/logout_user")[0] == 200
        status, asked = keys.post("/v1/passkeys/login_options")
        assert status == 200
        assert asked["public_key"].get("allowCredentials", []) == []
        body = {"challenge": asked["challenge"], "passkey": keys.get(asked["public_key"])}
        status, opened = keys.post("/v1/passkeys/login", body)
        assert (status, opened["status"]) == (200, "logged_in")
        assert fetched(keys.page, "/v1/me")[0] == 200
        assert keys.post("/v1/logout_user")[0] == 200
        return body

    body = await with_keys(site, browser, walk)
    again = await site.post("/v1/passkeys/login", json=body)
    assert again.code == "challenge_over"


async def test_what_a_browser_has_made_bent(site: Site, browser: Browser) -> None:
    """Nothing of it opens anything; only what is whole does."""

    def make(keys: Keys) -> Any:
        keys.enrolled()
        _, first = keys.post("/v1/passkeys/login_options")
        _, second = keys.post("/v1/passkeys/login_options")
        return first["challenge"], second["challenge"], keys.get(first["public_key"])

    first, second, passkey = await with_keys(site, browser, make)

    async def tried(challenge: str, passkey: Any) -> Answer:
        body = {"challenge": challenge, "passkey": passkey, "token": "bearer"}
        return await site.post("/v1/passkeys/login", json=body)

    def bent(name: str, change: Callable[[bytes], bytes]) -> Any:
        whole = passkey["response"][name]
        changed = change(urlsafe_b64decode(whole + "=" * (-len(whole) % 4)))
        text = urlsafe_b64encode(changed).rstrip(b"=").decode()
        return passkey | {"response": passkey["response"] | {name: text}}

    def flip(raw: bytes, at: int = -1) -> bytes:
        changed = bytearray(raw)
        changed[at] ^= 1
        return bytes(changed)

    origin = site.origin.encode()
    for broken in (
        bent("signature", flip),
        bent("authenticatorData", flip),  # the counter
        bent("authenticatorData", lambda raw: flip(raw, 0)),  # the host
        bent("authenticatorData", lambda raw: raw[:32] + bytes([raw[32] & ~4]) + raw[33:]),  # UV
        bent("clientDataJSON", lambda raw: raw.replace(origin, b"http://localhost:1")),
        bent("clientDataJSON", lambda raw: raw.replace(b"webauthn.get", b"webauthn.create")),
        bent("userHandle", flip),
        passkey | {"response": {k: v for k, v in passkey["response"].items() if k != "userHandle"}},
        passkey | {"rawId": passkey["rawId"][:-4] + "AAAA"},
        passkey | {"response": None},
        passkey | {"response": {"clientDataJSON": "AAAA"}},
        {"rawId": passkey["rawId"], "response": {"userHandle": 1}},
        {},
    ):
        refused = await tried(first, broken)
        assert (refused.status, refused.code) == (401, "wrong_factor"), broken
    assert (await tried(second, passkey)).code == "wrong_factor"
    for challenge in (
        first[:-1] + ("0" if first[-1] != "0" else "1"),
        first[:-2],
        "",
        "x",
        second * 9,
    ):
        assert (await tried(challenge, passkey)).code == "challenge_over"
    assert (await tried(first, passkey)).status == 200


async def test_a_copy_is_found_by_its_counter(site: Site, browser: Browser) -> None:
    def walk(keys: Keys) -> None:
        keys.enrolled()

        for _ in range(3):
            assert keys.opened()[0] == 200
        keys.rewind()
        status, refused = keys.opened()
        assert (status, refused["code"]) == (401, "wrong_factor")

    await with_keys(site, browser, walk)


async def test_who_is_not_known_by_the_passkey(site: Site, browser: Browser) -> None:
    def walk(keys: Keys) -> None:
        keys.enrolled()
        keys.verifies(False)
        _, asked = keys.post("/v1/passkeys/login_options")
        with pytest.raises(Exception, match="NotAllowedError"):
            keys.get(asked["public_key"])
        asked["public_key"]["userVerification"] = "discouraged"  # what a page may say, too
        body = {"challenge": asked["challenge"], "passkey": keys.get(asked["public_key"])}
        assert keys.post("/v1/passkeys/login", body)[1]["code"] == "wrong_factor"

    await with_keys(site, browser, walk)


async def test_strangers_passwords_do_not_lock_it_out(
    config: Config, database: Dsns, browser: Browser
) -> None:
    config = msgspec.structs.replace(config, password_failures=20)
    async with serving_site(config, database) as site:

        def enrol(keys: Keys) -> Any:
            keys.enrolled()
            return keys.credentials()

        credentials = await with_keys(site, browser, enrol)
        for _ in range(10):  # as many as strangers have
            assert (await site.log_in(password="not the right phrase")).status == 401
        assert (await site.log_in()).code == "invalid_credentials"

        def open_again(keys: Keys) -> None:
            for credential in credentials:
                keys.add(credential)
            assert keys.opened()[0] == 200

        await with_keys(site, browser, open_again)
        assert (await site.log_in()).code == "factor_required"  # the row has ended


async def test_a_passkey_is_enrolled_once_and_for_one(site: Site, browser: Browser) -> None:
    assert (await site.register("bob")).status == 201

    def walk(keys: Keys) -> None:
        keys.enrolled()
        assert keys.opened()[0] == 200
        _, offer = keys.post("/v1/factors/passkeys")
        with pytest.raises(Exception, match="InvalidStateError"):
            keys.create(offer["public_key"])  # the authenticator sees that it has one already
        keys.post("/v1/logout_user")
        _, asked = keys.post("/v1/passkeys/login_options")
        alices = keys.get(asked["public_key"])
        keys.post("/v1/login_user", {"login": "bob", "password": PASSWORD})
        _, offer = keys.post("/v1/factors/passkeys")
        body = {"challenge": offer["challenge"], "passkey": alices}
        assert keys.post("/v1/factors/passkeys/confirm", body)[1]["code"] == "wrong_code"

    await with_keys(site, browser, walk)


async def test_without_a_public_url_there_are_none(alice: Service) -> None:
    bearer = (
        await alice.post(
            "/v1/login_user", json={"login": "alice", "password": PASSWORD, "token": "bearer"}
        )
    ).token
    assert (await alice.post("/v1/passkeys/login_options")).code == "passkeys_off"
    login = {"challenge": "x", "passkey": {}}
    assert (await alice.post("/v1/passkeys/login", json=login)).code == "passkeys_off"
    assert (await alice.post("/v1/factors/passkeys", bearer=bearer)).code == "passkeys_off"
    confirmed = await alice.post("/v1/factors/passkeys/confirm", json=login, bearer=bearer)
    assert confirmed.code == "passkeys_off"
