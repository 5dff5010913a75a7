"""Functions of the hosted application that composed endpoints may call, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from aiohttp.typedefs import Handler

HandlerT = TypeVar("HandlerT", bound=Handler)
_name = re.compile(r"[a-z][a-z0-9_]{0,31}").fullmatch
_registered: dict[str, Handler] = {}


def composable(name: str) -> Callable[[HandlerT], HandlerT]:
    """Let composed endpoints call this handler, by this name (the step ``handler``).

    Who may reach it is what the endpoint says; the marks of the handler itself do not count there.
    It is called with the request, finds ``request[SESSION]`` where the endpoint is not public, and
    returns a whole response. Raises ValueError for a name that another handler has, or that is
    none: lower-case letters, digits and ``_``.
    """
    if _name(name) is None:
        raise ValueError(f"{name!r} is no name: lower-case letters, digits and _, at most 32")

    def register(handler: HandlerT) -> HandlerT:
        before = _registered.setdefault(name, handler)
        if before is not handler and _place(before) != _place(handler):
            raise ValueError(f"there are two handlers named {name!r}")
        _registered[name] = handler  # the same function, of a module that was loaded again
        return handler

    return register


def _place(handler: Handler) -> tuple[str, str]:
    return handler.__module__, getattr(handler, "__qualname__", "")


def handler_named(name: str) -> Handler | None:
    """The handler of this name, if there is one."""
    return _registered.get(name)


def handler_names() -> frozenset[str]:
    """All names that are taken."""
    return frozenset(_registered)
