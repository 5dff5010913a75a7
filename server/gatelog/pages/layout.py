"""The frame of every page: templates, navigation by role, and what the page knows of its reader."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

import aiohttp_jinja2
import jinja2
import msgspec
from aiohttp import web
from markupsafe import Markup

from gatelog.http.answers import keep_private
from gatelog.http.caller import caller_of
from gatelog.http.guard import SESSION
from gatelog.http.recheck import GATE
from gatelog.http.settings import CONFIG
from gatelog.pages.assets import assets
from gatelog.sessions.rules.record import Session

_ENVIRONMENT: Final = web.AppKey("gatelog_pages", jinja2.Environment)
COMPOSE_PATH: Final = "/console/compose"


class Section(msgspec.Struct, frozen=True):
    """An entry of the navigation, and the roles of which its reader has one; none: who is in."""

    path: str
    label: str
    roles: frozenset[str] = frozenset()

    def is_for(self, session: Session) -> bool:
        return not self.roles or bool(self.roles & session.roles)


# In the order in which they are shown. A page below a section's path is in that section; of
# several, the longest counts.
_READERS: Final = frozenset({"auditor", "admin"})
SECTIONS: Final = (
    Section("/account", "My account"),
    Section("/console/", "Overview", _READERS),
    Section("/console/users", "Users", _READERS),
    Section("/console/sessions", "Sessions", _READERS),
    Section("/console/audit", "Audit", _READERS),
    Section("/console/as-of", "As of", _READERS),
    Section(COMPOSE_PATH, "Composer", frozenset({"admin"})),
)
_SECTIONS: Final = web.AppKey("gatelog_sections", tuple[Section, ...])


class Frame(msgspec.Struct, frozen=True):
    """What the layout shows around a page. ``session``: of who reads; None: nobody is signed in.

    ``served``: the sections that there are, by the configuration.
    """

    path: str
    session: Session | None
    served: tuple[Section, ...] = SECTIONS

    @property
    def sections(self) -> list[Section]:
        """Where the reader may go."""
        reader = self.session
        return [each for each in self.served if reader is not None and each.is_for(reader)]

    @property
    def section(self) -> str:
        """The path of the section in which this page is."""
        above = [s.path for s in self.served if f"{self.path}/".startswith(f"{s.path}/")]
        return max(above, key=len, default="")


def set_up(app: web.Application) -> None:
    """Make the templates known to the application. Without a middleware, which every request would
    pay for."""
    environment = aiohttp_jinja2.setup(
        app,
        app_key=_ENVIRONMENT,
        default_helpers=False,
        loader=jinja2.PackageLoader("gatelog.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({"time": time_element, "day": day_element})
    environment.globals["asset"] = assets().url
    off = {COMPOSE_PATH} if app[CONFIG].composer == "off" else set()
    app[_SECTIONS] = tuple(section for section in SECTIONS if section.path not in off)


def show(
    request: web.Request, template: str, /, *, status: int = 200, **context: Any
) -> web.Response:
    """A page of this template, for its reader alone.

    The template finds ``frame`` and what is handed over. Handlers that are public call ``visitor``
    first, else the page does not know who reads.
    """
    frame = Frame(request.path, request.get(SESSION), request.app[_SECTIONS])
    known: Mapping[str, Any] = {"frame": frame, **context}
    response = aiohttp_jinja2.render_template(
        template, request, known, app_key=_ENVIRONMENT, status=status
    )
    keep_private(response)
    return response


async def visitor(request: web.Request) -> Session | None:
    """Who reads a page that is for everybody, if they are signed in; ``request[SESSION]`` then.

    Raises Unavailable when nobody can tell.
    """
    digest = caller_of(request).digest
    if digest is None:
        return None
    gate = request.app[GATE]
    session = gate.peek(digest)
    if session is None:
        session = await gate.find(digest)
    if not session or session.is_token:
        return None
    request[SESSION] = session
    return session


# --- times: in UTC until a module shows them in the reader's zone


def time_element(moment: datetime, detail: str = "minutes") -> Markup:
    """A ``<time>`` element, to the ``minutes``, ``seconds`` or ``milliseconds``."""
    moment = moment.astimezone(UTC).replace(tzinfo=None)
    full = f"{moment.isoformat(timespec='milliseconds')}Z"
    shown = moment.isoformat(sep=" ", timespec=detail)
    return Markup('<time datetime="{}" data-show="{}">{} UTC</time>').format(full, detail, shown)


def day_element(day: date) -> Markup:
    """A ``<time>`` element of a day, which is in no zone."""
    return Markup('<time datetime="{0}">{0}</time>').format(day.isoformat())
