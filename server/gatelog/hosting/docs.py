"""The API's document at ``/openapi.json``, and a page at ``/docs`` to read it and to try it.

Rules:

- Both are public: they tell what there is, and nothing of what is in it. ``GATELOG_DOCS=off`` takes
  them away, and leaves their paths to others.
- The document is made when it is asked for first, in each process, and again when another
  composition is live; it is the same on all hosts of a version. Clients keep what they got and ask
  again each time: 304 when it is the same (RFC 9110, section 13.1.2).
- The page loads nothing from other hosts, and has no script or style in it: its policy allows what
  is served here, and no markup that is made of text (Content Security Policy, level 3; Trusted
  Types).
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

import msgspec
from aiohttp import ETag, hdrs, web
from aiohttp.typedefs import Handler

from gatelog.composer.web.routing import Serving
from gatelog.composer.web.running import COMPOSED
from gatelog.config import Config
from gatelog.hosting.openapi import document
from gatelog.http.answers import insist_on_tls
from gatelog.http.credentials import is_local
from gatelog.http.described import Reply, describes
from gatelog.http.guard import public

DOCUMENT_PATH: Final = "/openapi.json"
PAGE_PATH: Final = "/docs"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_FIRST: Final = "page.html"
# What the page is made of: each file's path, and what it is.
PAGE: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        _FIRST: (PAGE_PATH, "text/html; charset=utf-8"),
        "page.js": (f"{PAGE_PATH}/page.js", "text/javascript; charset=utf-8"),
        "page.css": (f"{PAGE_PATH}/page.css", "text/css; charset=utf-8"),
        "icon.svg": (f"{PAGE_PATH}/icon.svg", "image/svg+xml"),
    }
)

_CACHED: Mapping[str, str] = {
    hdrs.CACHE_CONTROL: "no-cache",
    hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
}
_OF_THE_PAGE: Mapping[str, str] = {
    **_CACHED,
    hdrs.CONTENT_SECURITY_POLICY: POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_KNOWN: Mapping[str, Any] = {hdrs.IF_NONE_MATCH: str}
_TAGGED: Mapping[str, str] = {
    hdrs.ETAG: "Of these bytes.",
    hdrs.CACHE_CONTROL: "`no-cache`: ask again each time.",
}
_SAME = Reply(says="The client has it already.", headers=_TAGGED)


def _answers(media: str, content: Any) -> Mapping[int, Reply]:
    return {200: Reply(content={media: content}, headers=_TAGGED), 304: _SAME}


_answers_document = describes(returns=_answers("application/json", dict), headers=_KNOWN)
_answers_page = describes(returns=_answers(PAGE[_FIRST][1], str), headers=_KNOWN)


class _Kept(msgspec.Struct, frozen=True):
    """Bytes, with the tag by which a client knows them again."""

    body: bytes
    etag: str

    def answer(
        self, request: web.Request, media: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        named = request.headers.get(hdrs.IF_NONE_MATCH) == "*"
        if named or any(tag.value == self.etag for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=headers)
        else:
            response = web.Response(body=self.body, headers={hdrs.CONTENT_TYPE: media, **headers})
        response.etag = ETag(self.etag)
        return response


def _kept(body: bytes) -> _Kept:
    return _Kept(body, urlsafe_b64encode(sha256(body).digest()[:18]).decode())


def _openapi() -> Handler:
    """The handler of one application's document."""

    last: tuple[Serving | None, _Kept] | None = None
    making = asyncio.Lock()

    def make(app: web.Application, serving: Serving | None) -> _Kept:
        return _kept(msgspec.json.encode(document(app, serving)))

    async def made(app: web.Application) -> _Kept:
        nonlocal last
        serving = await app[COMPOSED].serving() if COMPOSED in app else None
        async with making:
            if last is None or last[0] is not serving:
                # in a thread, for there may be a thousand endpoints
                last = serving, await asyncio.to_thread(make, app, serving)
            return last[1]

    @public
    @_answers_document
    async def openapi(request: web.Request) -> web.StreamResponse:
        """This document. Everybody may read it: it says what there is, and nothing of what is in
        it."""
        return (await made(request.app)).answer(request, "application/json", _CACHED)

    return openapi


@cache
def _file(name: str) -> _Kept:
    return _kept((files(__package__) / "page" / name).read_bytes())


def _page(name: str, media: str) -> Handler:
    @public
    async def page(request: web.Request) -> web.StreamResponse:
        """The page on which this document is read and tried."""
        response = _file(name).answer(request, media, _OF_THE_PAGE)
        insist_on_tls(request, response, local=is_local(request))
        return response

    return _answers_page(page) if name == _FIRST else page  # what it loads is its own affair


def docs_routes(config: Config) -> list[web.RouteDef]:
    """The routes of the document and of its page, unless they are off."""
    if config.docs == "off":
        return []
    pages = [web.get(path, _page(name, media)) for name, (path, media) in PAGE.items()]
    return [web.get(DOCUMENT_PATH, _openapi()), *pages]
