"""aiohttp-security's policies on Gatelog's sessions. Needs ``pip install gatelog[security]``.

Rules: an identity is what the check has found, never what a cookie claims; what is not known to be
permitted is refused; where nobody can tell who asks, it is 503.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from aiohttp import web
from aiohttp_security.abc import AbstractAuthorizationPolicy, AbstractIdentityPolicy

from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.http.answers import forget_session_cookie
from gatelog.http.caller import caller_of
from gatelog.http.settings import CONFIG
from gatelog.session_data.web.active import active_session
from gatelog.sessions.rules.record import Session


class Identity(str):
    """A user's id as text, the session that it was found by, and what its roles may do."""

    __slots__ = ("config", "session")
    session: Session
    config: Config

    @classmethod
    def of(cls, session: Session, config: Config) -> Identity:
        """The identity of who has this session."""
        identity = cls(session.subject_text)
        identity.session, identity.config = session, config
        return identity


class SessionIdentityPolicy(AbstractIdentityPolicy):
    """The identity for aiohttp-security is the user whose active session the check has found."""

    async def identify(self, request: web.Request) -> str | None:
        """The user's id; None for a visitor.

        Raises DatabaseUnavailable when nobody can tell, RuntimeError outside of Gatelog.
        """
        session = await active_session(request)
        if session is None:
            return None
        return Identity.of(session, request.config_dict[CONFIG])

    async def remember(
        self, request: web.Request, response: web.StreamResponse, identity: str, **kwargs: Any
    ) -> None:
        """Refuse to log anybody in.

        Raises RuntimeError: a session begins with a password, at ``/v1/login_user``.
        """
        raise RuntimeError("log in at /v1/login_user: nobody is logged in without a password")

    async def forget(self, request: web.Request, response: web.StreamResponse) -> None:
        """End all sessions of the user, on every device, and forget the cookie.

        It returns when no replica accepts any of them. Raises Unavailable if that is not known,
        RuntimeError outside of Gatelog.
        """
        session, caller = await active_session(request), caller_of(request)
        if session is not None:
            await request.config_dict[ACCOUNTS].sessions.end_all(session, caller.client)
        forget_session_cookie(response, caller)


class RolesAuthorizationPolicy(AbstractAuthorizationPolicy):
    """aiohttp-security's permissions by roles: which permission which roles have.

    Without a mapping they are those of ``GATELOG_ROLES``, and a role has the permission of its own
    name. What is not in the mapping nobody may do.
    """

    def __init__(self, permissions: Mapping[str, Iterable[str]] | None = None) -> None:
        self._permissions = None
        if permissions is not None:
            self._permissions = {name: frozenset(roles) for name, roles in permissions.items()}

    async def permits(
        self, identity: str | None, permission: str | Enum, context: Any = None
    ) -> bool:
        """Whether the session's roles allow this; never for an identity of another policy's."""
        if not isinstance(identity, Identity):
            return False
        name = str(permission.value) if isinstance(permission, Enum) else permission
        if self._permissions is None:
            return identity.config.permits(identity.session.roles, name)
        return bool(self._permissions.get(name, frozenset()) & identity.session.roles)

    async def authorized_userid(self, identity: str) -> str | None:
        """The user's id, of an identity that the check has found."""
        return str(identity) if isinstance(identity, Identity) else None
