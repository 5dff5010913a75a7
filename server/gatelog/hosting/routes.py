"""Every route of the product, room by room."""

from __future__ import annotations

from collections.abc import Container

from aiohttp import web

from gatelog.accounts.web.factors import factor_routes
from gatelog.accounts.web.logins import login_routes
from gatelog.accounts.web.own import erasing_routes
from gatelog.accounts.web.recovery import recovery_routes
from gatelog.accounts.web.second_steps import second_step_routes
from gatelog.accounts.web.sessions import session_routes
from gatelog.accounts.web.tokens import token_routes
from gatelog.accounts.web.users import user_routes
from gatelog.audit.web.asof import asof_routes
from gatelog.audit.web.events import audit_routes
from gatelog.audit.web.export import export_routes
from gatelog.audit.web.own_export import own_export_routes
from gatelog.audit.web.stream import stream_routes
from gatelog.composer.web.compose import compose_routes
from gatelog.composer.web.running import run_routes
from gatelog.config import Config
from gatelog.console.web.overview import overview_routes
from gatelog.console.web.sessions import active_session_routes
from gatelog.console.web.users import directory_routes
from gatelog.hosting.docs import docs_routes
from gatelog.hosting.health import health_routes
from gatelog.http.identity import identity_routes
from gatelog.http.metrics import metrics_routes
from gatelog.http.signed_identity import key_routes
from gatelog.pages.routes import page_routes
from gatelog.proofs.web import log_routes


def own_routes(config: Config) -> list[web.RouteDef]:
    """All of them; those of keys, metrics and the document where the configuration has them."""
    return [
        *identity_routes(),
        *key_routes(config),
        *login_routes(),
        *second_step_routes(),
        *factor_routes(),
        *session_routes(),
        *token_routes(),
        *user_routes(),
        *recovery_routes(),
        *erasing_routes(),
        *log_routes(),
        *audit_routes(),
        *export_routes(),
        *own_export_routes(),
        *stream_routes(),
        *asof_routes(),
        *directory_routes(),
        *active_session_routes(),
        *overview_routes(),
        *health_routes(config),
        *metrics_routes(config),
        *docs_routes(config),
        *composer_routes(config),
    ]


def composer_routes(config: Config) -> list[web.RouteDef]:
    """The routes of who composes, unless the composer is off."""
    return [] if config.composer == "off" else [*compose_routes(), *run_routes()]


def own_pages(config: Config, taken: Container[str] = ()) -> list[web.RouteDef]:
    """The pages for people, unless they are off; none at a path that what is hosted has taken."""
    if config.pages == "off":
        return []
    return [route for route in page_routes(config) if route.path not in taken]


def own_resources(config: Config) -> list[web.AbstractResource]:
    """What the product answers, as its router has it, for who serves nothing."""
    router = web.UrlDispatcher()
    router.add_routes([*own_routes(config), *own_pages(config)])
    return list(router.resources())
