"""Calls of upstreams: of those that the operator has listed (``GATELOG_UPSTREAMS``), and no other.

Rules:

- Where a call goes is what the list says, by name: scheme, host and port come from there and from
  nowhere else. The rest of the path is made of segments, each percent-encoded (RFC 3986, section
  2.1), so nothing in one begins another part of the address; ``.`` and ``..`` are refused.
- Redirects are not followed, and no proxy is taken from the environment: a call ends where it was
  to go. Cookies are neither sent nor kept.
- An answer has a limit of time and of size, and is handed on only where it cannot act in a browser:
  JSON and plain text. Anything else is a 502.
- The caller's credentials stay here. Who it is travels in the same headers as with forward
  authentication, and what a client has sent under those names does not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, Self

import aiohttp
import msgspec
from aiohttp import hdrs
from yarl import URL

from gatelog.errors import NotFound, Unavailable, UpstreamFailed

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_CONNECTIONS: Final = 64  # to all upstreams, of a worker
_HANDED_ON: Final = {"application/json", "text/plain", "application/problem+json"}


class UpstreamAnswer(msgspec.Struct, frozen=True):
    """What an upstream has said."""

    status: int
    media: str
    body: bytes


class Upstreams:
    """Asks listed upstreams."""

    def __init__(self, listed: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> None:
        self._listed = {name: URL(address) for name, address in listed.items()}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        name: str,
        method: str,
        segments: Sequence[str],
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> UpstreamAnswer:
        """What this upstream says to a request for these segments below its address.

        Raises Unavailable where it is not listed here, NotFound for a segment that is a step in a
        tree, UpstreamFailed.
        """
        base = self._listed.get(name)
        if base is None:
            raise Unavailable(f"The upstream {name} is not listed on this host.")
        url = below(base, segments)
        sent = {**headers, hdrs.ACCEPT: "application/json"}
        if body is not None:
            sent[hdrs.CONTENT_TYPE] = "application/json"
        try:
            async with self._opened().request(
                method, url, headers=sent, data=body, allow_redirects=False
            ) as response:
                return await _read(name, response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            logger.warning("upstream %s: %s: %s", name, type(error).__name__, error)
            raise UpstreamFailed(f"The upstream {name} does not answer.") from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                trust_env=False,
                auto_decompress=True,
            )
        return self._session


def below(base: URL, segments: Sequence[str]) -> URL:
    """The address of these segments below another one. Raises NotFound for ``.`` and ``..``."""
    url = base
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise NotFound("There is nothing at this path.")
        url = _joined(url, segment)
    if url.origin() != base.origin():
        raise AssertionError(f"{url} is not below {base}")
    return url


def _joined(url: URL, segment: str) -> URL:
    encoded = "".join(
        chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in segment.encode()
    )
    return URL(f"{str(url).rstrip('/')}/{encoded}", encoded=True)


_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


async def _read(name: str, response: aiohttp.ClientResponse) -> UpstreamAnswer:
    if 300 <= response.status < 400 or response.status < 200:
        raise UpstreamFailed(f"The upstream {name} sends elsewhere, which is not followed.")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise UpstreamFailed(f"The upstream {name} says more than {MAX_ANSWER_BYTES} bytes.")
    if not body:
        return UpstreamAnswer(response.status, "", b"")
    if response.content_type not in _HANDED_ON:
        raise UpstreamFailed(f"The upstream {name} answers with {response.content_type}.")
    return UpstreamAnswer(response.status, response.content_type, bytes(body))
