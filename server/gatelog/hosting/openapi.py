"""The API's document: OpenAPI 3.1, made of the routes and of what stands beside their handlers.

Rules:

- It is made when it is asked for first, the application being complete then; and again when
  another composition is live.
- Each method of each route is there that is described (``gatelog.http.described``), with every
  status and every problem code that can come back, from the handler or from what stands before it.
- Problems that several operations share are written once, under ``components``.
- Nothing is in it that is not the same for everybody: no version, no host, no setting.

Sources: OpenAPI Specification 3.1.1; JSON Schema 2020-12; RFC 9457 (problem documents).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import product
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from gatelog import errors
from gatelog.composer.web.routing import Serving
from gatelog.hosting.operations import (
    EVERYWHERE,
    Operation,
    composed_operations,
    operations,
    paragraph,
    problems_of,
    texts_of,
    unavailable,
)
from gatelog.http.bodies import may_be_missing
from gatelog.http.credentials import LOCAL_COOKIE, SECURE_COOKIE
from gatelog.http.described import Lines, Reply, Told, fields_of, told_by, types_of
from gatelog.http.problems import CONTENT_TYPE, Problem

PROBLEM: Final = "Problem"
EVENT_STREAM: Final = "text/event-stream"

_REF = "#/components/schemas/{name}"
_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {hdrs.WWW_AUTHENTICATE: "The scheme that helps (RFC 6750)."},
}
_COME_AGAIN: Mapping[str, str] = {
    hdrs.RETRY_AFTER: "After how many seconds it is worth another try."
}
_SOMETIMES: Mapping[int, Mapping[str, str]] = {
    404: _COME_AGAIN,
    429: _COME_AGAIN,
    503: _COME_AGAIN,
}
_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": SECURE_COOKIE,
        "description": "The session cookie that a login sets.",
    },
    "localCookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": LOCAL_COOKIE,
        "description": "The session cookie over plain HTTP on a loopback address.",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": 'The token of a login with `"token": "bearer"`, or one for a machine.',
    },
}
_ABOUT = """\
Logins, sessions and the log of both, and what is hosted behind them.

Errors are problem documents (RFC 9457); their `code` never changes its meaning. A request that \
changes something and carries a session cookie is refused when it comes from a page of another \
origin. What was answered for a session is not for caches. This document is public."""


def document(app: web.Application, serving: Serving | None = None) -> dict[str, Any]:
    """The document of everything that this application answers and describes, and of what is
    composed in it."""
    composed = composed_operations(serving) if serving is not None else ()
    content = Document([*operations(app), *composed]).content()
    # as JSON has it: defaults that are tuples here are lists there
    told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(content))
    return told


class Document:
    """A document in the making: schemas and problems are named as they are met."""

    def __init__(self, found: list[Operation]) -> None:
        self._operations = found
        types = [Problem, *(kind for each in found for kind in types_of(each.described))]
        shown, self._schemas = msgspec.json.schema_components(types, ref_template=_REF)
        for schema in self._schemas.values():
            if "description" in schema:
                schema["description"] = paragraph(schema["description"])
        self._shown = {id(kind): schema for kind, schema in zip(types, shown, strict=True)}
        self._types = types  # while they are here, an id is theirs alone
        self._problems: dict[str, Any] = {}
        self._named: set[str] = set()
        self._usual = {told_by(error).code for error in (*EVERYWHERE, *unavailable())}

    def content(self) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for each in self._operations:
            paths.setdefault(each.path, {}).setdefault(each.method.lower(), self._operation(each))
        tags = {each.tag.name: each.tag.description for each in self._operations}
        return {
            "openapi": "3.1.1",
            "info": {"title": "Gatelog", "version": "1", "description": _ABOUT},
            "tags": [{"name": name, "description": about} for name, about in tags.items()],
            "paths": paths,
            "components": {
                "schemas": self._schemas,
                "responses": dict(sorted(self._problems.items())),
                "securitySchemes": _SCHEMES,
            },
        }

    def _operation(self, each: Operation) -> dict[str, Any]:
        summary, about = texts_of(each)
        told: dict[str, Any] = {
            "operationId": self._new_name(each.name),
            "tags": [each.tag.name],
            "summary": summary,
            "description": about,
            "parameters": list(self._parameters(each)),
            "security": _security(each),
            "responses": self._responses(each),
        }
        if each.described.body is not None:
            content = {"application/json": {"schema": self._schema(each.described.body)}}
            told["requestBody"] = {"content": content}
            if not may_be_missing(each.described.body):
                told["requestBody"]["required"] = True
        return {name: value for name, value in told.items() if value or name == "security"}

    def _new_name(self, wanted: str) -> str:
        """An operation's name that no other has: ``/a-b`` and ``/a/b`` would have one."""
        name, number = wanted, 2
        while name in self._named:
            name, number = f"{wanted}_{number}", number + 1
        self._named.add(name)
        return name

    # parameters

    def _parameters(self, each: Operation) -> Iterator[dict[str, Any]]:
        kinds = dict(each.described.path)
        for name in re.findall(r"{(\w+)}", each.path):
            schema = self._schema(kinds[name]) if name in kinds else {"type": "string"}
            yield _parameter("path", name, True, schema)
        for place, fields in (("query", each.described.query), ("header", each.described.headers)):
            for name, kind, required in fields_of(fields):
                yield _parameter(place, name, required, self._schema(kind))

    def _schema(self, kind: Any) -> dict[str, Any]:
        """The schema of a type; of a type that was not there before, for the first time."""
        if id(kind) not in self._shown:  # made anew each time that it is asked for
            (self._shown[id(kind)],), more = msgspec.json.schema_components(
                [kind], ref_template=_REF
            )
            self._types.append(kind)
            self._schemas |= more
        return self._shown[id(kind)]

    # answers

    def _responses(self, each: Operation) -> dict[str, Any]:
        bare = each.method == hdrs.METH_HEAD
        answers: dict[str, Any] = {
            str(status): self._answer(status, reply, bare=bare)
            for status, reply in each.described.returns.items()
        }
        by_status: dict[int, set[Told]] = {}
        for told in problems_of(each):
            by_status.setdefault(told.status, set()).add(told)
        for status, problems in by_status.items():
            name = self._problem(status, problems, bare=bare)
            if own := answers.get(str(status)):  # the handler answers with it as well
                for part in ("headers", "content"):
                    if both := self._problems[name].get(part, {}) | own.get(part, {}):
                        own[part] = both
            else:
                answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
        return dict(sorted(answers.items()))

    def _answer(self, status: int, reply: Reply, *, bare: bool) -> dict[str, Any]:
        told: dict[str, Any] = {"description": reply.says or HTTPStatus(status).phrase}
        if reply.headers or reply.sometimes:
            told["headers"] = _headers(reply.headers, reply.sometimes)
        if reply.content and not bare:
            told["content"] = {
                media: self._media(media, kind) for media, kind in reply.content.items()
            }
        return told

    def _media(self, media: str, kind: Any) -> dict[str, Any]:
        if isinstance(kind, Lines):
            return _lines(media, self._schema(kind.of))
        return {} if kind is bytes else {"schema": self._schema(kind)}

    def _problem(self, status: int, problems: set[Told], *, bare: bool) -> str:
        """The name of the response with these problems, which is written when it is new."""
        codes = sorted({told.code for told in problems})
        own = [code for code in codes if code not in self._usual]
        name = ".".join([str(status), *own, *(["head"] if bare else [])])
        if name in self._problems:
            return name
        titles = sorted({f"{told.title} (`{told.code}`)." for told in problems})
        response: dict[str, Any] = {"description": " ".join(titles)}
        headers = _headers(_HEADERS.get(status, {}), _SOMETIMES.get(status, {}))
        if headers:
            response["headers"] = headers
        if not bare:
            known = {"status": {"const": status}, "code": {"enum": codes}}
            schema = {"allOf": [{"$ref": _REF.format(name=PROBLEM)}, {"properties": known}]}
            response["content"] = {CONTENT_TYPE: {"schema": schema}}
        self._problems[name] = response
        return name


def _lines(media: str, item: dict[str, Any]) -> dict[str, Any]:
    """Many items, as near to what OpenAPI 3.2 says of them (``itemSchema``) as 3.1 can be."""
    if media != EVENT_STREAM:
        return {"schema": {"type": "string"}, "x-itemSchema": item}
    text: dict[str, Any] = {"type": "string"}
    data = text | {"contentMediaType": "application/json", "contentSchema": item}
    fields = {"id": text, "event": text, "data": data, "retry": {"type": "integer"}}
    return {"schema": {"type": "object", "properties": fields}}


def _security(each: Operation) -> list[dict[str, list[str]]]:
    """One of these; the roles in one are all needed (OpenAPI 3.1, security requirement object).

    What is public and says 401 all the same looks at a session that may be missing.
    """
    if each.public:
        looks = any(issubclass(error, errors.NotAuthenticated) for error in each.described.raises)
        return [{}, *_schemes([])] if looks else []
    wanted = (sorted(set(roles)) for roles in product(*each.roles))
    return [scheme for roles in wanted for scheme in _schemes(roles)]


def _schemes(roles: list[str]) -> list[dict[str, list[str]]]:
    return [{scheme: roles} for scheme in _SCHEMES]


def _parameter(place: str, name: str, required: bool, schema: Mapping[str, Any]) -> dict[str, Any]:
    shown = _without_null(schema)
    about = shown.pop("description", "")
    told: dict[str, Any] = {"name": name, "in": place, "schema": shown}
    if required:
        told["required"] = True
    if about:
        told["description"] = about
    return told


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter that is not there is left out: it is never null."""
    shown = dict(schema)
    others = [each for each in shown.get("anyOf", ()) if each != {"type": "null"}]
    if len(others) == 1:
        del shown["anyOf"]
        shown |= others[0]
    if shown.get("default", ...) is None:
        del shown["default"]
    return shown


def _headers(always: Mapping[str, str], sometimes: Mapping[str, str]) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        str(name): {"description": about, "schema": text} | ({"required": True} if there else {})
        for there, named in ((True, always), (False, sometimes))
        for name, about in named.items()
    }
