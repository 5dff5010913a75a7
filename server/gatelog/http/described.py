"""What a handler takes and answers, said beside it: the API's document (OpenAPI) is made of it.

Rules:

- It is said in the types by which bodies are read and answers are written, so it follows them.
- What holds for every handler is not repeated: the check, the roles it asks for, what a body may
  lack, a service that cannot know. ``gatelog.hosting.openapi`` adds that by itself.
- Nothing here runs while a request is answered.
- What is not described is in no document: a hosted application tells only what it says itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from gatelog.errors import BodyTooLarge, GatelogError, MethodNotAllowed, NotFound

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

DESCRIBED: Final = "gatelog_described"
ROLES: Final = "gatelog_roles"  # a mark: sets of roles, of each of which a user must have one
RECENT: Final = "gatelog_recent"  # a mark: the session must be young
METHOD: Final = "gatelog_method"  # a mark: the session must have begun by this method (RFC 8176)
NO_TOKENS: Final = "gatelog_no_tokens"  # a mark: it must be no token of a machine

Error = type[GatelogError] | type[web.HTTPException]
Fields = Mapping[str, Any] | type[msgspec.Struct] | Callable[[], Mapping[str, Any]]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_KNOWN: Mapping[int, type[GatelogError]] = {
    error.status: error for error in (NotFound, MethodNotAllowed, BodyTooLarge)
}


class Lines(msgspec.Struct, frozen=True):
    """A text of many items, each of this type and in JSON: NDJSON, server-sent events."""

    of: Any


class Needed(msgspec.Struct, frozen=True):
    """The type of a parameter that must not be left out."""

    of: Any


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer: its body's type by media type, and its headers with what they mean.

    ``headers`` are always there, ``sometimes`` are not; ``says`` is what it means in words.
    """

    content: Mapping[str, Any] = _NOTHING
    says: str = ""
    headers: Mapping[str, str] = _NOTHING
    sometimes: Mapping[str, str] = _NOTHING


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """All that is said of a handler beside its docstring and its other marks."""

    returns: Mapping[int, Reply]
    body: Any = None
    query: Fields = _NOTHING
    path: Mapping[str, Any] = _NOTHING
    headers: Fields = _NOTHING
    raises: tuple[Error, ...] = ()


class Told(msgspec.Struct, frozen=True):
    """A problem that may be answered."""

    status: int
    code: str
    title: str


def describes(
    *,
    returns: Mapping[int, Any],
    body: Any = None,
    query: Fields = _NOTHING,
    path: Mapping[str, Any] = _NOTHING,
    headers: Fields = _NOTHING,
    raises: Iterable[Error] = (),
) -> Callable[[HandlerT], HandlerT]:
    """Say what a handler, or a method of a view, takes and answers: ``/openapi.json`` then has it.

    ``returns``: for each status the type that is sent as JSON, None for an empty body, or a media
    type in a text (``"text/csv"``). ``body``: the type that ``read_body`` reads. ``query`` and
    ``headers``: a struct, whose fields with a default may be left out, or a type for each name, all
    of which may be. ``path``: types of the path's parameters; text without one. ``raises``: errors
    of ``GatelogError`` or aiohttp's ``HTTPException`` that become problem documents. Types are all
    that msgspec knows; their docstrings and ``Meta`` are shown, and so is the handler's docstring,
    to everybody. What the check answers need not be said. Nothing is checked by it.

    Raises ValueError without an answer or for no status, and TypeError for a type that msgspec
    cannot describe.
    """
    if not returns or not all(100 <= status <= 599 for status in returns):
        raise ValueError("say what is returned, by its status")
    described = Described(
        returns={status: _reply(content) for status, content in returns.items()},
        body=body,
        query=query,
        path=path,
        headers=headers,
        raises=tuple(raises),
    )
    _check(described)

    def mark(handler: HandlerT) -> HandlerT:
        setattr(handler, DESCRIBED, described)
        return handler

    return mark


def _reply(content: Any) -> Reply:
    if isinstance(content, Reply):
        return content
    if content is None:
        return Reply()
    if isinstance(content, str):
        return Reply(content={content: str})
    return Reply(content={"application/json": content})


def _check(described: Described) -> None:
    """Raises TypeError for a type that cannot be described: here is where it can be mended."""
    if callable(described.query) and not isinstance(described.query, type):
        return  # ours, and not known before all rooms are there
    with suppress(NameError):  # a type that is defined later in its module
        msgspec.json.schema_components(types_of(described))


def types_of(described: Described) -> list[Any]:
    """Every type that is named, in the order in which they are said."""
    found = [] if described.body is None else [described.body]
    for fields in (described.query, described.path, described.headers):
        found += [kind for _, kind, _ in fields_of(fields)]
    for reply in described.returns.values():
        found += [kind.of if isinstance(kind, Lines) else kind for kind in reply.content.values()]
    return found


def fields_of(fields: Fields) -> list[tuple[str, Any, bool]]:
    """Each one's name and type, and whether it must be there."""
    if isinstance(fields, type):
        known = msgspec.structs.fields(fields)
        return [(field.encode_name, field.type, field.required) for field in known]
    named = fields() if callable(fields) else fields
    return [
        (str(name), kind.of if isinstance(kind, Needed) else kind, isinstance(kind, Needed))
        for name, kind in named.items()
    ]


def told_by(error: Error) -> Told:
    """The problem that this error becomes (``gatelog.http.problems``)."""
    if issubclass(error, GatelogError):
        return Told(error.status, error.code, error.title)
    known = _KNOWN.get(error.status_code)
    if known is not None:
        return told_by(known)
    reason = HTTPStatus(error.status_code).phrase
    code = reason.lower().replace(" ", "_").replace("-", "_")
    return Told(error.status_code, code, reason)
