"""Identities as signed tokens: JSON Web Tokens (RFC 7519) with Ed25519 (RFC 8037), and their keys.

A token says for 60 seconds at the most whose a request is, to an API that does not trust the
network between the proxy and itself. Pure: keys and times come in as arguments. Rules:

- One algorithm, in every token of every key; nothing here reads a token.
- ``aud`` is one API: what was signed for it is of no use at another (RFC 8725, section 3.9).
- ``exp`` is never past the session's end.
- A key is known by its thumbprint (RFC 7638), so that the same key has the same name on all hosts.
- A new key is listed before it signs, and an old one until its last token is over, so that who has
  just fetched the list can check every token.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatelog.sessions.rules.record import Session

MAX_TTL_S = 60  # of a token
LISTED_FIRST_S = 60  # how long a key is listed before it signs
LISTED_ON_S = 2 * MAX_TTL_S  # and after: other hosts may sign with it for some seconds more

_encode = msgspec.json.Encoder(order="deterministic").encode


class Claims(msgspec.Struct, frozen=True):
    """What a token says; times in whole seconds since 1970 (RFC 7519, section 4.1).

    ``sid`` and ``roles`` as registered for OpenID Connect and RFC 9068, section 2.2.3.1.
    """

    iss: str
    sub: str
    aud: str
    sid: str
    roles: tuple[str, ...]
    iat: int
    exp: int


def claims_of(session: Session, *, issuer: str, audience: str, now_us: int, ttl_s: int) -> Claims:
    """What is said of this session for ``ttl_s`` seconds, or less where it ends before."""
    user_id, session_id, _, _, roles = session.texts()
    now_s = now_us // 1_000_000
    return Claims(
        iss=issuer,
        sub=user_id,
        aud=audience,
        sid=session_id,
        roles=tuple(sorted(roles.split(","))) if roles else (),
        iat=now_s,
        exp=min(now_s + ttl_s, session.expires_us // 1_000_000),
    )


class PublicKey(msgspec.Struct, frozen=True):
    """A key as the list shows it (RFC 7517, section 4; RFC 8037, section 2)."""

    kid: str
    x: str
    kty: str = "OKP"
    crv: str = "Ed25519"
    alg: str = "EdDSA"
    use: str = "sig"


class SigningKey:
    """A private key: 32 random bytes, or as good as random (RFC 8032, section 5.1.5)."""

    __slots__ = ("_head", "_key", "public")

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        x = _base64(self._key.public_key().public_bytes_raw()).decode()
        self.public = PublicKey(thumbprint(x), x)
        self._head = _base64(_encode({"alg": "EdDSA", "kid": self.public.kid, "typ": "JWT"}))

    @property
    def kid(self) -> str:
        """What it is known by."""
        return self.public.kid

    def sign(self, claims: Claims) -> str:
        """The token, in the compact form (RFC 7515, section 7.1)."""
        signed = self._head + b"." + _base64(_encode(claims))
        return (signed + b"." + _base64(self._key.sign(signed))).decode()

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"  # never the seed


def thumbprint(x: str) -> str:
    """The thumbprint of an Ed25519 key (RFC 7638, section 3; RFC 8037, appendix A.3)."""
    required = _encode({"crv": "Ed25519", "kty": "OKP", "x": x})
    return _base64(hashlib.sha256(required).digest()).decode()


def _base64(data: bytes) -> bytes:
    """Base64url without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


class SigningKeys:
    """Which key signs, and which are listed, as keys come and go. Times in microseconds."""

    def __init__(self) -> None:
        self.signing: SigningKey | None = None  # before the first one is known
        self._held: tuple[SigningKey, ...] = ()
        self._next: tuple[SigningKey, int] | None = None  # and from when on it signs
        self._gone: list[tuple[SigningKey, int]] = []  # and until when they are listed

    def update(self, current: SigningKey, held: Iterable[SigningKey], now_us: int) -> None:
        """Take in which key is ``current`` now, and which others may be: those are listed, too."""
        self._held = (current, *held)
        self._gone = [gone for gone in self._gone if now_us < gone[1]]
        if self.signing is None or self.signing.kid == current.kid:
            self.signing, self._next = current, None
        elif self._next is None or self._next[0].kid != current.kid:
            self._next = current, now_us + LISTED_FIRST_S * 1_000_000
        elif now_us >= self._next[1]:
            self._gone.append((self.signing, now_us + LISTED_ON_S * 1_000_000))
            self.signing, self._next = current, None

    def listed(self, now_us: int) -> list[PublicKey]:
        """All keys whose tokens are good, or will be, each once."""
        signing = (self.signing,) if self.signing is not None else ()
        gone = (key for key, until_us in self._gone if now_us < until_us)
        return list({key.kid: key.public for key in (*signing, *self._held, *gone)}.values())
