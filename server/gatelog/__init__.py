"""Login sessions as events, for aiohttp: what programs import from here is the public API.

Everything else in this package is private and may move. Names are imported when they are first
used, so that a process which needs no web framework does not load one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatelog.composer.service.handlers import composable as composable
    from gatelog.composer.web.steps import Steps as Steps
    from gatelog.config import Config as Config
    from gatelog.config import load_config as load_config
    from gatelog.errors import GatelogError as GatelogError
    from gatelog.hosting.program import create_app as create_app
    from gatelog.hosting.program import run as run
    from gatelog.hosting.program import setup as setup
    from gatelog.http.bodies import read_body as read_body
    from gatelog.http.described import describes as describes
    from gatelog.http.guard import SESSION as SESSION
    from gatelog.http.guard import changes_nothing as changes_nothing
    from gatelog.http.guard import changes_state as changes_state
    from gatelog.http.guard import no_tokens as no_tokens
    from gatelog.http.guard import public as public
    from gatelog.http.roles import recent_login as recent_login
    from gatelog.http.roles import requires as requires
    from gatelog.session_data.web.policies import (
        RolesAuthorizationPolicy as RolesAuthorizationPolicy,
    )
    from gatelog.session_data.web.policies import SessionIdentityPolicy as SessionIdentityPolicy
    from gatelog.session_data.web.storage import EventLogStorage as EventLogStorage
    from gatelog.sessions.rules.record import Session as Session

_HOMES = {
    "Config": "gatelog.config",
    "EventLogStorage": "gatelog.session_data.web.storage",
    "GatelogError": "gatelog.errors",
    "RolesAuthorizationPolicy": "gatelog.session_data.web.policies",
    "SESSION": "gatelog.http.guard",
    "Session": "gatelog.sessions.rules.record",
    "SessionIdentityPolicy": "gatelog.session_data.web.policies",
    "Steps": "gatelog.composer.web.steps",
    "changes_nothing": "gatelog.http.guard",
    "changes_state": "gatelog.http.guard",
    "composable": "gatelog.composer.service.handlers",
    "create_app": "gatelog.hosting.program",
    "describes": "gatelog.http.described",
    "load_config": "gatelog.config",
    "no_tokens": "gatelog.http.guard",
    "public": "gatelog.http.guard",
    "read_body": "gatelog.http.bodies",
    "recent_login": "gatelog.http.roles",
    "requires": "gatelog.http.roles",
    "run": "gatelog.hosting.program",
    "setup": "gatelog.hosting.program",
}

__all__ = [
    "SESSION",
    "Config",
    "EventLogStorage",
    "GatelogError",
    "RolesAuthorizationPolicy",
    "Session",
    "SessionIdentityPolicy",
    "Steps",
    "changes_nothing",
    "changes_state",
    "composable",
    "create_app",
    "describes",
    "load_config",
    "no_tokens",
    "public",
    "read_body",
    "recent_login",
    "requires",
    "run",
    "setup",
]


def __getattr__(name: str) -> Any:
    """A public name, from where it is at home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
