"""Holds every answer that a test sees to the API's document: its status, headers, type and body.

What is said there is taken strictly: a field that the schema does not name is a fault as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

import jsonschema_rs
from aiohttp import web
from gatelog.config import Config
from gatelog.hosting.openapi import document
from gatelog.hosting.routes import own_routes
from gatelog.kinds import register_all
from multidict import CIMultiDict

_PREFLIGHT = ("OPTIONS", 204)
# OpenAPI 3.1 knows no others; a route of any method takes them, too.
_SAYABLE = {"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"}


class Broken(AssertionError):
    """An answer that the document does not foresee."""


class Contract:
    """The document, ready to judge by."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        concrete_first = sorted(document["paths"].items(), key=lambda pair: "{" in pair[0])
        self._paths = [(_matching(path), item) for path, item in concrete_first]
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    @cached_property
    def _components(self) -> dict[str, Any]:
        schemas = {
            name: schema | ({"additionalProperties": False} if "properties" in schema else {})
            for name, schema in self._document["components"]["schemas"].items()
        }
        return {**self._document["components"], "schemas": schemas}

    def check(
        self, method: str, target: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Raises Broken for an answer of a path of the document's that it does not foresee."""
        path = target.partition("?")[0].partition("#")[0]
        item = next((item for fits, item in self._paths if fits(path)), None)
        if item is None:
            return
        place = f"{method} {path}: {status}"
        operation = item.get(method.lower())
        if operation is None:
            if status < 400 and method in _SAYABLE and (method, status) != _PREFLIGHT:
                raise Broken(f"{place}, and the method is not in the document")
            return
        response = self._resolved(operation["responses"].get(str(status)))
        if response is None:
            raise Broken(f"{place} is not in the document: {body[:500]!r}")
        self._check_headers(place, response, CIMultiDict(headers))
        if method != "HEAD":
            self._check_body(place, response, CIMultiDict(headers), body)

    def _resolved(self, response: dict[str, Any] | None) -> dict[str, Any] | None:
        if response is None or "$ref" not in response:
            return response
        named = self._document["components"]["responses"]
        return dict(named[response["$ref"].rpartition("/")[2]])

    def _check_headers(
        self, place: str, response: dict[str, Any], headers: CIMultiDict[str]
    ) -> None:
        for name, header in response.get("headers", {}).items():
            if header.get("required") and name not in headers:
                raise Broken(f"{place} lacks the header {name}")

    def _check_body(
        self, place: str, response: dict[str, Any], headers: CIMultiDict[str], body: bytes
    ) -> None:
        content = response.get("content", {})
        sent = headers.get("Content-Type", "")
        if not content:
            if body:
                raise Broken(f"{place} has a body that is not in the document")
            return
        if sent not in content:
            raise Broken(f"{place} is {sent}, not one of {list(content)}")
        media = content[sent]
        if sent == "text/event-stream":
            for line in body.splitlines():
                if line.startswith(b"data: "):
                    item = media["schema"]["properties"]["data"]["contentSchema"]
                    self._validate(place, item, line[6:])
        elif "x-itemSchema" in media:
            for line in body.splitlines():
                self._validate(place, media["x-itemSchema"], line)
        elif sent.endswith("json"):
            self._validate(place, media["schema"], body)

    def _validate(self, place: str, schema: dict[str, Any], text: bytes) -> None:
        key = json.dumps(schema)
        if key not in self._validators:
            self._validators[key] = jsonschema_rs.Draft202012Validator(
                schema | {"components": self._components}, validate_formats=True
            )
        for error in self._validators[key].iter_errors(json.loads(text)):
            raise Broken(f"{place}: {error.message} in {text[:500]!r}")


def _matching(path: str) -> Any:
    """Matches what the path's template stands for; only tiles have slashes in a parameter."""
    parts = re.split(r"({\w+})", path)
    slashes = path.startswith("/v1/log/tile/")
    some = ".+" if slashes else "[^/]+"
    return re.compile("".join(some if p.startswith("{") else re.escape(p) for p in parts)).fullmatch


@cache
def _contract(metrics: str, docs: str, issuer: str, composer: str) -> Contract:
    register_all()
    app = web.Application()
    config = Config(
        metrics=metrics,  # type: ignore[arg-type]
        docs=docs,  # type: ignore[arg-type]
        identity_issuer=issuer,
        composer=composer,  # type: ignore[arg-type]
    )
    app.add_routes(own_routes(config))
    return Contract(document(app))


def contract(config: Config | None = None) -> Contract:
    """That of the product's own paths, with this configuration."""
    config = config or Config(identity_issuer="https://gatelog.example")
    return _contract(config.metrics, config.docs, config.identity_issuer, config.composer)
