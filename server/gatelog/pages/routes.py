"""Every page, and what pages are made of."""

from __future__ import annotations

from aiohttp import web

from gatelog.config import Config
from gatelog.pages import front, layout, presence
from gatelog.pages.account import account_routes
from gatelog.pages.active import active_page_routes
from gatelog.pages.asof import asof_page_routes
from gatelog.pages.assets import asset_routes
from gatelog.pages.audit import audit_page_routes
from gatelog.pages.composer.actions import action_page_routes
from gatelog.pages.composer.builds import build_page_routes
from gatelog.pages.composer.endpoints import endpoint_page_routes
from gatelog.pages.composer.runs import run_page_routes
from gatelog.pages.data import data_routes
from gatelog.pages.factors import factor_page_routes
from gatelog.pages.front import front_routes
from gatelog.pages.history import history_routes
from gatelog.pages.join import join_routes
from gatelog.pages.overview import overview_page_routes
from gatelog.pages.presence import presence_routes
from gatelog.pages.recovery import recovery_page_routes
from gatelog.pages.sign_in import sign_in_routes
from gatelog.pages.tokens import token_page_routes
from gatelog.pages.user import user_page_routes
from gatelog.pages.users import users_page_routes


def page_routes(config: Config) -> list[web.RouteDef]:
    """All of them; those of the composer where the configuration has it."""
    return [
        *asset_routes(),
        *presence_routes(),
        *front_routes(),
        *sign_in_routes(),
        *join_routes(),
        *recovery_page_routes(),
        *account_routes(),
        *factor_page_routes(),
        *token_page_routes(),
        *history_routes(),
        *data_routes(),
        *overview_page_routes(),
        *users_page_routes(),
        *user_page_routes(),
        *active_page_routes(),
        *audit_page_routes(),
        *asof_page_routes(),
        *composer_page_routes(config),
    ]


def composer_page_routes(config: Config) -> list[web.RouteDef]:
    """The pages of who composes, unless the composer is off."""
    if config.composer == "off":
        return []
    return [
        *endpoint_page_routes(),
        *action_page_routes(),
        *build_page_routes(),
        *run_page_routes(),
    ]


def set_up_pages(app: web.Application) -> None:
    """What pages find in the application: templates, and what they keep in mind."""
    layout.set_up(app)
    front.set_up(app)
    app[presence.OPEN] = set()
