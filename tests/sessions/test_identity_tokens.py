"""Tokens and their keys: the standards' own examples; keys that come and go on several hosts."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from uuid import UUID

import jwt
from gatelog.sessions.rules.identity_tokens import (
    MAX_TTL_S,
    SigningKey,
    SigningKeys,
    claims_of,
)
from gatelog.sessions.rules.record import Session, to_us
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOON, session_record

NOON_US = to_us(NOON)
USER, SESSION = UUID(int=1), UUID(int=2)
LOOK_EVERY_S = 10


def session(lasts_us: int, *roles: str) -> Session:
    return Session(
        session_record(
            session_id=SESSION,
            subject_id=USER,
            started_at=NOON,
            expires_at=NOON.fromtimestamp((NOON_US + lasts_us) / 1e6, NOON.tzinfo),
            roles=roles,
        )
    )


def test_the_key_of_rfc_8037() -> None:
    """Its appendix A: the private key, the public key, and the thumbprint."""
    seed = urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    public = SigningKey(seed).public
    assert public.x == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert public.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_token_says_what_it_should_and_pyjwt_agrees() -> None:
    key = SigningKey(bytes(32))
    claims = claims_of(
        session(10**10, "b", "a"), issuer="i", audience="api", now_us=NOON_US, ttl_s=30
    )
    token = key.sign(claims)
    now_s = NOON_US // 10**6
    told = jwt.decode(
        token,
        jwt.PyJWK(json.loads(json.dumps({"x": key.public.x, "kty": "OKP", "crv": "Ed25519"}))),
        algorithms=["EdDSA"],
        audience="api",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert told == {
        "iss": "i",
        "sub": str(USER),
        "sid": str(SESSION),
        "aud": "api",
        "roles": ["a", "b"],
        "iat": now_s,
        "exp": now_s + 30,
    }
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": key.kid, "typ": "JWT"}
    assert repr(key) == f"SigningKey({key.kid})"


@given(
    lasts_us=st.integers(0, 120 * 10**6),
    now_us=st.integers(0, 10**6),
    ttl_s=st.integers(5, MAX_TTL_S),
)
def test_no_token_is_good_after_its_time_or_its_sessions(
    lasts_us: int, now_us: int, ttl_s: int
) -> None:
    asked = session(lasts_us)
    claims = claims_of(asked, issuer="i", audience="a", now_us=NOON_US + now_us, ttl_s=ttl_s)
    assert claims.exp * 10**6 <= asked.expires_us
    assert claims.exp <= claims.iat + ttl_s
    assert claims.iat * 10**6 <= NOON_US + now_us


OLD, NEW = SigningKey(bytes(32)), SigningKey(b"1" * 32)
LONG_S = 400  # when everything is over


class Host:
    """Looks every ten seconds, from its first look on; knows nothing of other hosts."""

    def __init__(self, first_look_s: int) -> None:
        self._first_look_s = first_look_s
        self._keys = SigningKeys()

    def at(self, now_s: int, current: SigningKey, held: list[SigningKey]) -> None:
        if now_s == 0 or now_s % LOOK_EVERY_S == self._first_look_s:
            self._keys.update(current, held, now_s * 10**6)

    def signs_with(self) -> str:
        assert self._keys.signing is not None
        return self._keys.signing.kid

    def lists(self, now_s: int) -> set[str]:
        return {key.kid for key in self._keys.listed(now_s * 10**6)}


@given(looks=st.lists(st.integers(0, LOOK_EVERY_S - 1), min_size=2, max_size=3), kept=st.booleans())
def test_every_host_lists_what_any_host_has_signed_with(looks: list[int], kept: bool) -> None:
    """A new key becomes current at a moment that each host sees at its next look. ``kept``: the
    old one stays at hand, as in a variable; from a file it is gone at once."""
    changed_s = 25
    hosts = [Host(look) for look in looks]
    good: dict[str, int] = {}  # until when a token of this key may be
    for now_s in range(LONG_S):
        current = NEW if now_s >= changed_s else OLD
        held = [OLD] if kept or now_s < changed_s else []
        for host in hosts:
            host.at(now_s, current, held)
            good[host.signs_with()] = now_s + MAX_TTL_S
        for host in hosts:
            alive = {kid for kid, until_s in good.items() if now_s < until_s}
            assert alive <= host.lists(now_s), now_s
        if now_s < changed_s + 60:
            assert {host.signs_with() for host in hosts} == {OLD.kid}
    for host in hosts:
        assert host.signs_with() == NEW.kid
        assert host.lists(LONG_S) == ({OLD.kid, NEW.kid} if kept else {NEW.kid})


def test_a_change_that_is_taken_back_changes_nothing() -> None:
    keys = SigningKeys()
    for now_s, current in ((0, OLD), (10, NEW), (20, OLD), (90, NEW), (100, NEW)):
        keys.update(current, [OLD, NEW], now_s * 10**6)
        assert keys.signing is OLD
    keys.update(NEW, [NEW], 150 * 10**6)
    assert keys.signing is NEW
