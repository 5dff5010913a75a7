"""Many sessions, made where they are needed by one rule: in PostgreSQL, in Redis, in the client.

Session number n has the token ``base64url(SHA-256("session n"))``; nobody has to be told it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jwt
from gatelog.sessions.rules.tokens import TOKEN_LENGTH, machine_token_from_random, token_digest

if TYPE_CHECKING:
    import redis.asyncio
    from gatelog.log.store.database import Connection

JWT_KEY = "a key of thirty-two bytes and more"
JWT_ALGORITHM = "HS256"
LIFETIME_S = 86_400
SESSIONS_PER_USER = 4
MACHINES = 1000
REDIS_COOKIE = "AIOHTTP_SESSION"
SELECT_COOKIE = "sid"
_REDIS_CHUNK = 10_000

# Active sessions 0 to $1 - 1, straight into the projection.
_FILL = """
INSERT INTO active_sessions (token_digest, session_id, subject_id, started_at, expires_at, roles)
SELECT sha256(convert_to(translate(rtrim(encode(
           sha256(convert_to('session ' || n, 'UTF8')), 'base64'), '='), '+/', '-_'), 'UTF8')),
       md5('session ' || n)::uuid, md5('user ' || n / $2)::uuid,
       now(), now() + $3 * interval '1 second', '{}'
FROM generate_series(0, $1 - 1) AS n
"""

# Tokens for machines, with these digests.
_FILL_TOKENS = """
INSERT INTO active_sessions (token_digest, session_id, subject_id, started_at, expires_at, roles,
                             absolute_at, seen_at, is_token)
SELECT digest, md5('machine ' || n)::uuid, md5('user ' || n)::uuid,
       now(), now() + $2 * interval '1 second', '{}', now() + $2 * interval '1 second', now(), true
FROM unnest($1::bytea[]) WITH ORDINALITY AS t (digest, n)
"""


def token(number: int) -> str:
    return urlsafe_b64encode(hashlib.sha256(b"session %d" % number).digest())[:-1].decode()


async def fill_postgres(owner: Connection, sessions: int) -> None:
    """Fill an empty, migrated database with active sessions."""
    await owner.execute(_FILL, sessions, SESSIONS_PER_USER, LIFETIME_S)
    await owner.execute("VACUUM ANALYZE active_sessions")


async def fill_tokens(owner: Connection) -> None:
    """Some tokens for machines beside them, whose use of today is recorded."""
    digests = [token_digest(machine_token(number)) for number in range(MACHINES)]
    await owner.execute(_FILL_TOKENS, digests, LIFETIME_S)


def machine_token(number: int) -> str:
    return machine_token_from_random(hashlib.sha256(b"machine %d" % number).digest())


async def fill_redis(client: redis.asyncio.Redis, sessions: int) -> None:
    """Fill Redis with what aiohttp-session stores for a session."""
    value = json.dumps({"created": int(time.time()), "session": {"user": "user 1", "roles": []}})
    for first in range(0, sessions, _REDIS_CHUNK):
        numbers = range(first, min(first + _REDIS_CHUNK, sessions))
        await client.mset({f"{REDIS_COOKIE}_" + token(number): value for number in numbers})


# --- requests


def _request(path: str, header: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: gate.example\r\n{header}\r\n\r\n".encode()


def post(path: str, content: dict[str, str]) -> bytes:
    """A request with a JSON body."""
    body = json.dumps(content).encode()
    header = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    return _request(path, header).replace(b"GET", b"POST", 1) + body


def bearer(method: str, path: str, token: str) -> bytes:
    """A request with this token, and without a body."""
    request = _request(path, f"Authorization: Bearer {token}")
    return request.replace(b"GET", method.encode(), 1)


class Tokens:
    """The tokens of all sessions, packed."""

    def __init__(self, sessions: int) -> None:
        self.count = sessions
        self._packed = "".join(map(token, range(sessions))).encode()
        self._next = 0

    def requests(self, path: str, cookie: str) -> Iterator[bytes]:
        """Requests with the tokens of all sessions in turn, going on where the last ones ended.

        Where a session lies in a table or a tree is by its digest, which is random.
        """
        before, after = _request(path, f"Cookie: {cookie}=|").split(b"|")
        packed, end = self._packed, len(self._packed)
        while True:
            start = self._next
            self._next = (start + TOKEN_LENGTH) % end
            yield before + packed[start : start + TOKEN_LENGTH] + after


def jwt_requests(path: str, tokens: int) -> Iterator[bytes]:
    """Requests with so many different signed tokens in turn."""
    expires = int(time.time()) + LIFETIME_S
    requests = [
        _request(path, f"Authorization: Bearer {_signed(number, expires)}")
        for number in range(tokens)
    ]
    while True:
        yield from requests


def _signed(number: int, expires: int) -> str:
    claims = {"sub": f"user {number}", "sid": f"session {number}", "exp": expires}
    return jwt.encode(claims, JWT_KEY, algorithm=JWT_ALGORITHM)


def machine_requests(path: str) -> Iterator[bytes]:
    """Requests with the tokens of all machines in turn."""
    return itertools.cycle([bearer("GET", path, machine_token(n)) for n in range(MACHINES)])


def wrong_requests(path: str) -> list[bytes]:
    """Requests that no contestant with a check may let through."""
    nobody = token(-1)
    return [
        _request(path, "Accept: */*"),
        _request(
            path,
            f"Cookie: __Host-gatelog={nobody}; {REDIS_COOKIE}={nobody}; {SELECT_COOKIE}={nobody}",
        ),
        _request(path, f"Authorization: Bearer {jwt.encode({'sub': 'x'}, 'k' * 32)}"),
    ]
