"""Passkeys in a real browser: Chromium's virtual authenticator (CDP, domain WebAuthn).

And one in a few lines, for tests that need thousands of answers: what it makes is what a browser
would hand in, and the product cannot tell the difference.
"""

from __future__ import annotations

import os
import socket
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from typing import Any, TypeVar

import aiohttp
import cbor2
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from gatelog.config import Config
from gatelog.hosting.app import create_app, make_runner
from playwright.sync_api import CDPSession, Page

from tests.browser import Browser, fetched
from tests.conftest import Dsns
from tests.contract import contract
from tests.serving import PASSWORD, Service

ResultT = TypeVar("ResultT")
CREATE = """async (publicKey) => {
    const options = PublicKeyCredential.parseCreationOptionsFromJSON(publicKey);
    return (await navigator.credentials.create({ publicKey: options })).toJSON();
}"""
GET = """async (publicKey) => {
    const options = PublicKeyCredential.parseRequestOptionsFromJSON(publicKey);
    return (await navigator.credentials.get({ publicKey: options })).toJSON();
}"""
AUTHENTICATOR = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


class Site(Service):
    """The service as a browser reaches it, and the address that passkeys are for."""

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"


@asynccontextmanager
async def serving_site(config: Config, database: Dsns) -> AsyncIterator[Site]:
    """The service under a name that passkeys can be for, with alice registered."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
        config = msgspec.structs.replace(config, public_url=f"http://localhost:{port}")
        runner = make_runner(create_app(config, database.app), config)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
            site = Site(runner, client, contract(config))
            assert (await site.register()).status == 201
            yield site
        await runner.cleanup()


class Keys:
    """A page with an authenticator that no hand has to touch."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        page.goto(f"{origin}/health/alive")
        self.cdp: CDPSession = page.context.new_cdp_session(page)
        self.cdp.send("WebAuthn.enable")
        added = self.cdp.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
        self.id = added["authenticatorId"]

    def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        """What the page gets for this."""
        status, _, text = fetched(
            self.page,
            path,
            method="POST",
            headers={"Content-Type": "application/json"},
            body=msgspec.json.encode(body).decode() if body is not None else None,
        )
        return status, msgspec.json.decode(text)

    def create(self, public_key: Any) -> Any:
        return self.page.evaluate(CREATE, public_key)

    def get(self, public_key: Any) -> Any:
        return self.page.evaluate(GET, public_key)

    def verifies(self, verified: bool) -> None:
        """Whether the authenticator knows its user from now on."""
        self.cdp.send(
            "WebAuthn.setUserVerified",
            {"authenticatorId": self.id, "isUserVerified": verified},
        )

    def credentials(self) -> list[Any]:
        found = self.cdp.send("WebAuthn.getCredentials", {"authenticatorId": self.id})
        return list(found["credentials"])

    def rewind(self) -> None:
        """Have the authenticator's only key count its signatures from 1 on again, as a copy of it
        would that was made before."""
        (credential,) = self.credentials()
        self.cdp.send(
            "WebAuthn.removeCredential",
            {"authenticatorId": self.id, "credentialId": credential["credentialId"]},
        )
        self.add(credential | {"signCount": 0})

    def add(self, credential: Any) -> None:
        """Put a key into the authenticator."""
        added = {"authenticatorId": self.id, "credential": credential}
        self.cdp.send("WebAuthn.addCredential", added)

    def opened(self) -> tuple[int, Any]:
        """Log in by passkey alone; what that is answered."""
        _, asked = self.post("/v1/passkeys/login_options")
        body = {"challenge": asked["challenge"], "passkey": self.get(asked["public_key"])}
        return self.post("/v1/passkeys/login", body)

    def enrolled(self) -> Any:
        """Log in by password, and enrol a passkey; what that is answered."""
        assert self.post("/v1/login_user", {"login": "alice", "password": PASSWORD})[0] == 200
        status, offer = self.post("/v1/factors/passkeys")
        assert status == 200, offer
        body = {
            "challenge": offer["challenge"],
            "passkey": self.create(offer["public_key"]),
            "name": "My laptop",
        }
        status, added = self.post("/v1/factors/passkeys/confirm", body)
        assert status == 201, added
        return added


async def with_keys(site: Site, browser: Browser, steps: Callable[[Keys], ResultT]) -> ResultT:
    """Do this with a page of the site and an authenticator."""
    return await browser.run(lambda page: steps(Keys(page, site.origin)))


PRESENT_AND_VERIFIED, WITH_CREDENTIAL = 0x05, 0x40


class SoftKey:
    """A passkey of P-256 with its signature counter (WebAuthn level 2, sections 6.1 and 6.5)."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.id = os.urandom(32)
        self.user = b""
        self.counter = 0
        self._key = ec.generate_private_key(ec.SECP256R1())

    def create(self, public_key: Any) -> Any:
        """What ``navigator.credentials.create`` would make of this."""
        self.user = _bytes(public_key["user"]["id"])
        numbers = self._key.public_key().public_numbers()
        x, y = (number.to_bytes(32, "big") for number in (numbers.x, numbers.y))
        cose = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        credential = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + cose
        flags = PRESENT_AND_VERIFIED | WITH_CREDENTIAL
        data = self._data(public_key["rp"]["id"], flags, 0) + credential
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return self._answer(
            clientDataJSON=self._client_data("webauthn.create", public_key),
            attestationObject=attestation,
        )

    def get(self, public_key: Any, counter: int | None = None) -> Any:
        """What ``navigator.credentials.get`` would; ``counter``: instead of the next one."""
        if counter is None:
            self.counter += 1
            counter = self.counter
        data = self._data(public_key["rpId"], PRESENT_AND_VERIFIED, counter)
        client_data = self._client_data("webauthn.get", public_key)
        signature = self._key.sign(data + sha256(client_data).digest(), ec.ECDSA(SHA256()))
        return self._answer(
            clientDataJSON=client_data,
            authenticatorData=data,
            signature=signature,
            userHandle=self.user,
        )

    def _data(self, host: str, flags: int, counter: int) -> bytes:
        return sha256(host.encode()).digest() + bytes([flags]) + counter.to_bytes(4, "big")

    def _client_data(self, kind: str, public_key: Any) -> bytes:
        return msgspec.json.encode(
            {
                "type": kind,
                "challenge": public_key["challenge"],
                "origin": self.origin,
                "crossOrigin": False,
            }
        )

    def _answer(self, **response: bytes) -> Any:
        return {
            "id": _text(self.id),
            "rawId": _text(self.id),
            "type": "public-key",
            "response": {name: _text(value) for name, value in response.items()},
            "clientExtensionResults": {},
        }


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
