"""Stylesheet, scripts and pictures, at addresses that change with their content.

Rules:

- The address names a hash over all of them, so a page and its modules fit together, and what is
  kept under an address is right for ever: ``immutable`` (RFC 8246).
- While hosts of two versions run side by side, a page of one may ask the other for its files. That
  one sends those that it has, not to be kept.
- Modules import each other by relative addresses: they have the hash of the page.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gatelog.http.guard import public
from gatelog.pages.headers import secure

PREFIX: Final = "/pages"
KEPT_S = 31_536_000
_MEDIA: Final[Mapping[str, str]] = MappingProxyType(
    {
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml",
    }
)


class Assets(msgspec.Struct, frozen=True):
    """All files, by their names, and the hash over them."""

    version: str
    files: Mapping[str, bytes]

    def url(self, name: str) -> str:
        """The address of this file. Raises KeyError for one that there is not."""
        self.files[name]
        return f"{PREFIX}/{self.version}/{name}"


@cache
def assets() -> Assets:
    """Those of this version."""
    found = dict(sorted(_found(files(__package__) / "static")))
    whole = sha256()
    for name, content in found.items():
        whole.update(sha256(name.encode()).digest() + sha256(content).digest())
    version = urlsafe_b64encode(whole.digest()[:12]).decode()
    return Assets(version, MappingProxyType(found))


def _found(folder: Traversable, above: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = above + entry.name
        if entry.is_dir():
            yield from _found(entry, f"{name}/")
        elif entry.name.rpartition(".")[2] in _MEDIA:
            yield name, entry.read_bytes()


@public
async def asset(request: web.Request) -> web.StreamResponse:
    """A file, for as long as the browser likes."""
    known, name = assets(), request.match_info["name"]
    content = known.files.get(name)
    if content is None:
        raise web.HTTPNotFound()
    same = request.match_info["version"] == known.version
    response = web.Response(
        body=content,
        headers={
            hdrs.CONTENT_TYPE: _MEDIA[name.rpartition(".")[2]],
            hdrs.CACHE_CONTROL: f"public, max-age={KEPT_S}, immutable" if same else "no-store",
        },
    )
    secure(request, response)
    return response


def asset_routes() -> list[web.RouteDef]:
    """The route of the files."""
    return [web.get(f"{PREFIX}/{{version:[A-Za-z0-9_-]{{1,64}}}}/{{name:[a-z0-9_./-]+}}", asset)]
