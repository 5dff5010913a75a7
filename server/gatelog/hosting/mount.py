"""Somebody's whole application behind the check: how it is found, and where it is put.

Rules:

- Everything in it is protected that is not marked public (``gatelog.hosting.mounted``):
  sub-applications, views, static files, WebSockets, uploads, and what it adds as it starts. Its own
  middlewares see the session.
- What is neither routed nor allowed in it is its own to answer, to who is logged in: its
  middlewares may answer paths that have no route.
- It cannot take a path of the product's: a mount that would is refused.
- The bodies it takes are as large as it says itself (``client_max_size``).
- Modules are looked for in the working directory last: nothing there replaces a module that the
  product needs.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import web

from gatelog.config import variable
from gatelog.errors import ConfigError
from gatelog.hosting.mounted import Mounted, Noting
from gatelog.http.guard import Door, expected

_MOUNTED: Final = web.AppKey("gatelog_mounted", str)  # in an application that is hosted: where


def mount(
    app: web.Application, door: Door, hosted: web.Application, prefix: str, *, noting: Noting
) -> Mounted:
    """Put the hosted application behind the check, under this path. Raises ConfigError.

    ``noting`` is shown each response before it is sent.
    """
    if _first(prefix) in {_first(resource.canonical) for resource in app.router.resources()}:
        raise ConfigError(variable("mount"), f"/{_first(prefix)} has paths of the product")
    if hosted.pre_frozen or _MOUNTED in hosted:
        raise ConfigError(variable("app"), "this application is in use already: make a fresh one")
    hosted[_MOUNTED] = prefix
    mounted = Mounted(app, door, hosted, prefix)
    app.router.register_resource(mounted)
    mounted.live(noting)
    return mounted


def expect_as_everywhere(app: web.Application) -> None:
    """``Expect`` is answered the same by all handlers; aiohttp's own answer is plain text."""
    for route in app.router.routes():
        route._expect_handler = expected


def _first(path: str) -> str:
    """The first segment of a path."""
    return path.split("/", 2)[1]


def find(target: str) -> Any:
    """What ``package.module:attribute`` names.

    Raises ConfigError when there is nothing of that name, and says so when it is a module of the
    working directory that another one hides.
    """
    module, _, path = target.partition(":")
    if not module or not path:
        raise ConfigError(variable("app"), f"{target!r} is not of the form package.module:name")
    _find_here(str(Path.cwd()))
    try:
        found: Any = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        why = _hidden(module.partition(".")[0]) or str(error)
        raise ConfigError(variable("app"), f"{target} cannot be loaded: {why}") from error
    except Exception as error:  # whatever a module does as it is imported
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError) else f" ({place.filename}, {place.lineno})"
        told = f"{type(error).__name__}: {error}{where}"
        raise ConfigError(variable("app"), f"{target} cannot be loaded: {told}") from error
    return found


def _find_here(here: str) -> None:
    """Have modules of the working directory found: after Python's own, before what is installed.

    Some distributions install a `tests` or an `examples` beside their package; the product's own
    modules are loaded, or found by way of the package, which no other one can take the place of.
    """
    if here in sys.path:
        return
    installed = ("site-packages", "dist-packages")
    places = [at for at, place in enumerate(sys.path) if Path(place).name in installed]
    sys.path.insert(places[0] if places else len(sys.path), here)


def _hidden(top: str) -> str | None:
    """What to say of a module of the working directory in whose place another one was found."""
    here, loaded = Path.cwd(), sys.modules.get(top)
    own = [path for path in (here / f"{top}.py", here / top) if path.exists()]
    if not own or loaded is None:
        return None
    places = [getattr(loaded, "__file__", None), *getattr(loaded, "__path__", ())]
    found = [Path(place) for place in places if place]
    if any(path.is_relative_to(here) for path in found):
        return None
    place = found[0] if found else "Python itself"
    return f"{own[0]} is hidden by {place}; give it another name"


async def application(found: Any) -> web.Application:
    """The application that was found: itself, made by its factory, or of its routes.

    Raises ConfigError for what is none of these.
    """
    if callable(found) and not isinstance(found, web.Application):
        found = found()
        if inspect.isawaitable(found):
            found = await found
    if isinstance(found, web.Application):
        return found
    if isinstance(found, Iterable) and not isinstance(found, str | bytes):
        routes = list(found)
        if routes and all(isinstance(route, web.AbstractRouteDef) for route in routes):
            app = web.Application()
            app.add_routes(cast(list[web.AbstractRouteDef], routes))
            return app
    raise ConfigError(
        variable("app"), f"this is no application, no routes and no factory: {type(found).__name__}"
    )
