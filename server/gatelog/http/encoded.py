"""Answers put together as bytes, for what is asked before every request to other services.

aiohttp makes a response out of a map of headers; for a small answer that is a third of the work
of the whole request. Rules:

- Whoever reads the answer cannot tell the difference: the same headers in the same order.
- Only the common case is taken, a GET by HTTP/1.1 on a connection that stays open, in an
  application without middlewares and without the signal ``on_response_prepare``. Everything else
  becomes an ordinary response.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Literal

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

SERVER_NAME = "gatelog"  # and no version of anything


class Template:
    """What all answers of a kind have in common: status 200, and these headers."""

    __slots__ = ("_end", "_end_s", "_headers", "_start")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._start = "HTTP/1.1 200 OK\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in headers.items()
        )
        self._end_s = -1

    def response(self, body: bytes = b"", more: str = "") -> web.Response:
        """An ordinary response with this body.

        ``more``: further header lines, each ``name: value`` and CR LF, in ASCII; nothing in them
        may come from a client.
        """
        response = web.Response(body=body, headers=self._headers)
        for line in more.splitlines():
            name, _, value = line.partition(": ")
            response.headers[name] = value
        return response

    def encoded(
        self, request: web.BaseRequest, body: bytes = b"", more: str = ""
    ) -> web.StreamResponse:
        """The same, where it may be in bytes."""
        if (
            request.method != hdrs.METH_GET
            or request.version != HttpVersion11
            or not request.keep_alive
        ):
            return self.response(body, more)
        now_s = int(time.time())
        if now_s != self._end_s:
            self._end_s = now_s
            self._end = f"\r\nDate: {formatdate(now_s, usegmt=True)}\r\n{_SERVER}\r\n\r\n"
        head = f"{self._start}{more}Content-Length: {len(body)}{self._end}"
        return Encoded(head.encode("ascii") + body)


_SERVER = f"Server: {SERVER_NAME}"


class Encoded(web.StreamResponse):
    """A whole answer in bytes; what its template says about caches is all there is to say."""

    def __init__(self, message: bytes) -> None:
        super().__init__()
        self._message = message

    @property
    def keep_alive(self) -> Literal[True]:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Send it; aiohttp calls this once."""
        writer = request.writer
        await writer.write(self._message)
        self._writer = writer
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Wait while the client does not take what it was sent."""
        await self._writer.drain()
