"""The API's document: OpenAPI 3.1, made of the routes and of what stands beside their handlers.

Rules:

- It is made once, when it is asked for first: the application is complete then.
- Each method of each route is there that is described (``gatelog.http.described``), with every
  status and every problem code that can come back, from the handler or from what stands before it.
- Problems that several operations share are written once, under ``components``.
- Nothing is in it that is not the same for everybody: no version, no host, no setting.

Sources: OpenAPI Specification 3.1.1; JSON Schema 2020-12; RFC 9457 (problem documents).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from itertools import product
from typing import Any, Final, cast

import msgspec
from aiohttp import hdrs, web

from gatelog import errors
from gatelog.http.credentials import LOCAL_COOKIE, SECURE_COOKIE
from gatelog.http.described import (
    DESCRIBED,
    RECENT,
    ROLES,
    Described,
    Error,
    Lines,
    Reply,
    Told,
    fields_of,
    told_by,
    types_of,
)
from gatelog.http.guard import is_public
from gatelog.http.problems import CONTENT_TYPE, Problem

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PROBLEM: Final = "Problem"
EVENT_STREAM: Final = "text/event-stream"

_REF = "#/components/schemas/{name}"
# Of what stands before every handler: what is no HTTP, a page of another origin, an expectation.
_EVERYWHERE: tuple[Error, ...] = (
    errors.BadRequest,
    errors.CrossSiteRequest,
    errors.Premature,
    errors.ExpectationFailed,
    errors.GatelogError,
)
_OF_A_BODY: tuple[Error, ...] = (
    errors.BadRequest,
    errors.MalformedJson,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidInput,
)
_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {hdrs.WWW_AUTHENTICATE: "The scheme that helps (RFC 6750)."},
}
_SOMETIMES: Mapping[int, Mapping[str, str]] = {
    404: {hdrs.RETRY_AFTER: "After how many seconds it is worth another try."},
    503: {hdrs.RETRY_AFTER: "After how many seconds it is worth another try."},
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
        "description": 'The token of a login with `"token": "bearer"`.',
    },
}
_ABOUT = """\
Logins, sessions and the log of both, and what is hosted behind them.

Errors are problem documents (RFC 9457); their `code` never changes its meaning. A request that \
changes something and carries a session cookie is refused when it comes from a page of another \
origin. What was answered for a session is not for caches. This document is public."""


class Tag(msgspec.Struct, frozen=True):
    name: str
    description: str


# Of the module in which a handler stands; all others' are hosted.
TAGS: Mapping[str, Tag] = {
    "gatelog.http.identity": Tag("identity", "Who is asking."),
    "gatelog.accounts.web.logins": Tag("logins", "Register, log in, change the password."),
    "gatelog.accounts.web.sessions": Tag("sessions", "One's own sessions: list and end them."),
    "gatelog.accounts.web.users": Tag("users", "Other people's sessions and rights."),
    "gatelog.audit.web": Tag("audit", "Who did what, when, and from where."),
    "gatelog.proofs.web": Tag("log", "Checkpoints, tiles and proofs of the log (C2SP)."),
    "gatelog.hosting.health": Tag("service", "The service itself."),
    "gatelog.http.metrics": Tag("service", "The service itself."),
    "gatelog.hosting.docs": Tag("service", "The service itself."),
}


class Operation(msgspec.Struct, frozen=True):
    """A method of a route, and what is known of the handler that answers it."""

    method: str
    path: str
    module: str
    doc: str
    described: Described
    public: bool
    roles: tuple[frozenset[str], ...]
    recent: bool

    @property
    def name(self) -> str:
        """Made of method and path, which stay when handlers are renamed."""
        return "_".join([self.method.lower(), *re.findall(r"[A-Za-z0-9]+", self.path)])

    @property
    def tag(self) -> Tag:
        """The module's, or its room's; of what is hosted, the beginning of its path."""
        known = TAGS.get(self.module) or TAGS.get(self.module.rpartition(".")[0])
        return known or Tag(self.path.split("/")[1] or "hosted", "What is hosted here.")


# --- which operations there are


def operations(app: web.Application) -> Iterator[Operation]:
    """Each method of each route whose handler is described, in the order of the routes."""
    for route in app.router.routes():
        resource = route.resource
        if resource is None:
            continue
        for method in METHODS if route.method == hdrs.METH_ANY else (route.method,):
            found = _operation(resource.canonical, method, route.handler)
            if found is not None:
                yield found


def _operation(path: str, method: str, handler: Any) -> Operation | None:
    chain = list(_unwrapped(handler))
    view = chain[-1]
    if inspect.isclass(view):
        chain += _unwrapped(getattr(view, method.lower(), None))
    marks = [vars(each) for each in chain if hasattr(each, "__dict__")]
    described = _first(marks, DESCRIBED)
    if described is None or method not in METHODS:
        return None
    home = chain[-1]
    return Operation(
        method=method,
        path=path,
        module=getattr(home, "__module__", ""),
        doc=inspect.getdoc(home) or "",
        described=cast(Described, described),
        public=is_public(handler),
        roles=tuple(_first(marks, ROLES) or ()),
        recent=bool(_first(marks, RECENT)),
    )


def _unwrapped(handler: Any) -> Iterator[Any]:
    """The handler and what it stands for, from the outside to the inside (``functools.wraps``)."""
    while handler is not None:
        yield handler
        handler = vars(handler).get("__wrapped__") if hasattr(handler, "__dict__") else None


def _first(marks: Iterable[Mapping[str, Any]], name: str) -> Any:
    return next((each[name] for each in marks if name in each), None)


# --- the document


def document(app: web.Application) -> dict[str, Any]:
    """The document of everything that this application answers and describes."""
    return Document(list(operations(app))).content()


class Document:
    """A document in the making: schemas and problems are named as they are met."""

    def __init__(self, found: list[Operation]) -> None:
        self._operations = found
        types = [Problem, *(kind for each in found for kind in types_of(each.described))]
        shown, self._schemas = msgspec.json.schema_components(types, ref_template=_REF)
        for schema in self._schemas.values():
            if "description" in schema:
                schema["description"] = _text(schema["description"])
        self._shown = {id(kind): schema for kind, schema in zip(types, shown, strict=True)}
        self._types = types  # while they are here, an id is theirs alone
        self._problems: dict[str, Any] = {}
        self._usual = {told_by(error).code for error in (*_EVERYWHERE, *unavailable())}

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
            "operationId": each.name,
            "tags": [each.tag.name],
            "summary": summary,
            "description": about,
            "parameters": list(self._parameters(each)),
            "security": _security(each),
            "responses": self._responses(each),
        }
        if each.described.body is not None:
            content = {"application/json": {"schema": self._schema(each.described.body)}}
            told["requestBody"] = {"required": True, "content": content}
        return {name: value for name, value in told.items() if value or name == "security"}

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
                own["content"] = self._problems[name].get("content", {}) | own.get("content", {})
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


def texts_of(each: Operation) -> tuple[str, str]:
    """The first sentence of the handler's docstring, and the rest with what its marks mean."""
    text = _text(each.doc.partition("\n\nRaises ")[0])
    summary, _, rest = text.partition(". ")
    about = [rest.strip()] if rest else []
    about += [f"Needs the role `{'` or `'.join(sorted(roles))}`." for roles in each.roles]
    if each.recent:
        about.append("Needs a login of a moment ago.")
    return summary.removesuffix("."), " ".join(about)


def _text(doc: str) -> str:
    """A docstring as one paragraph of CommonMark."""
    return " ".join(doc.split()).replace("``", "`")


def problems_of(each: Operation) -> Iterator[Told]:
    """Every problem that may be answered: by the handler, or by what stands before it."""
    found: list[Error] = [*_EVERYWHERE, *unavailable(), *each.described.raises]
    if not each.public:
        found.append(errors.NotAuthenticated)
    if each.roles:
        found.append(errors.Forbidden)
    if each.recent:
        found.append(errors.RecentLoginRequired)
    if each.described.body is not None:
        found += _OF_A_BODY
    if fields_of(each.described.query):
        found.append(errors.InvalidInput)
    if "{" in each.path:
        found.append(errors.NotFound)
    for error in found:
        yield told_by(error)


def unavailable() -> Iterator[type[errors.GatelogError]]:
    """The ways in which the service says that it cannot know."""
    waiting: list[type[errors.GatelogError]] = [errors.Unavailable]
    while waiting:
        found = waiting.pop()
        if found.__module__ == errors.__name__:
            yield found
            waiting += found.__subclasses__()


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
