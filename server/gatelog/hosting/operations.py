"""Which operations an application has: the methods of its routes, and what is known of each.

Rules:

- An operation is there if its handler is described (``gatelog.http.described``); a handler is found
  through whatever wraps it (``functools.wraps``), a view's by its method.
- The problems of an operation are its handler's own, those of what stands before the handler, and
  those of what it is described to take.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

import msgspec
from aiohttp import hdrs, web

from gatelog import errors
from gatelog.composer.web.routing import Serving
from gatelog.http.described import (
    DESCRIBED,
    METHOD,
    NO_TOKENS,
    RECENT,
    ROLES,
    Described,
    Error,
    Told,
    fields_of,
    told_by,
)
from gatelog.http.guard import is_public

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

# Of what stands before every handler: what is no HTTP, a page of another origin, an expectation.
EVERYWHERE: tuple[Error, ...] = (
    errors.BadRequest,
    errors.CrossSiteRequest,
    errors.Premature,
    errors.ExpectationFailed,
    errors.GatelogError,
)
_OF_A_BODY: tuple[Error, ...] = (
    errors.BadRequest,
    errors.MalformedJson,
    errors.RequestTimedOut,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidInput,
)


class Tag(msgspec.Struct, frozen=True):
    name: str
    description: str


# Of the module in which a handler stands; all others' are hosted.
TAGS: Mapping[str, Tag] = {
    "gatelog.http.identity": Tag("identity", "Who is asking."),
    "gatelog.http.signed_identity": Tag("identity", "Who is asking."),
    "gatelog.accounts.web.logins": Tag("logins", "Register, log in, change the password."),
    "gatelog.accounts.web.second_steps": Tag("logins", "Register, log in, change the password."),
    "gatelog.accounts.web.own": Tag("sessions", "One's own sessions: list and end them."),
    "gatelog.accounts.web.factors": Tag("factors", "One's own second factors."),
    "gatelog.accounts.web.sessions": Tag("sessions", "One's own sessions: list and end them."),
    "gatelog.accounts.web.tokens": Tag("tokens", "Tokens for machines."),
    "gatelog.accounts.web.users": Tag("users", "Other people's sessions and rights."),
    "gatelog.composer.web.endpoints": Tag("composed", "What was composed here."),
    "gatelog.composer.web": Tag("composer", "Endpoints made of triggers, actions and events."),
    "gatelog.console.web": Tag("console", "Who there is, who is in, and how things stand."),
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
    for_logins: bool
    method_of_login: str = ""

    @property
    def name(self) -> str:
        """Made of method and path, which stay when handlers are renamed."""
        return "_".join([self.method.lower(), *re.findall(r"[A-Za-z0-9]+", self.path)])

    @property
    def tag(self) -> Tag:
        """The module's, or its room's; of what is hosted, the beginning of its path."""
        known = TAGS.get(self.module) or TAGS.get(self.module.rpartition(".")[0])
        return known or Tag(self.path.split("/")[1] or "hosted", "What is hosted here.")


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


def composed_operations(serving: Serving) -> Iterator[Operation]:
    """Each endpoint of a build that is live, in its order."""
    for served in serving.served:
        found = _operation(served.endpoint.path, served.endpoint.method, served.handler)
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
        method_of_login=_first(marks, METHOD) or "",
        for_logins=bool(_first(marks, NO_TOKENS)),
    )


def _unwrapped(handler: Any) -> Iterator[Any]:
    """The handler and what it stands for, from the outside to the inside (``functools.wraps``)."""
    while handler is not None:
        yield handler
        handler = vars(handler).get("__wrapped__") if hasattr(handler, "__dict__") else None


def _first(marks: Iterable[Mapping[str, Any]], name: str) -> Any:
    return next((each[name] for each in marks if name in each), None)


# --- what is said of one


def texts_of(each: Operation) -> tuple[str, str]:
    """The first sentence of the handler's docstring, and the rest with what its marks mean."""
    text = paragraph(each.doc.partition("\n\nRaises ")[0])
    summary, _, rest = text.partition(". ")
    about = [rest.strip()] if rest else []
    about += [f"Needs the role `{'` or `'.join(sorted(roles))}`." for roles in each.roles]
    if each.recent:
        about.append("Needs a login of a moment ago.")
    if each.method_of_login:
        about.append(f"Needs a login by `{each.method_of_login}` (RFC 8176).")
    if each.for_logins:
        about.append("Not with a token for a machine.")
    return summary.removesuffix("."), " ".join(about)


def paragraph(doc: str) -> str:
    """A docstring as one paragraph of CommonMark."""
    return " ".join(doc.split()).replace("``", "`")


def problems_of(each: Operation) -> Iterator[Told]:
    """Every problem that may be answered: by the handler, or by what stands before it."""
    found: list[Error] = [*EVERYWHERE, *unavailable(), *each.described.raises]
    if not each.public:
        found.append(errors.NotAuthenticated)
    if each.roles:
        found.append(errors.Forbidden)
    if each.recent:
        found += [errors.RecentLoginRequired, errors.TokenNotAllowed]
    if each.method_of_login:
        found.append(errors.FactorLoginRequired)
    if each.for_logins:
        found.append(errors.TokenNotAllowed)
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
