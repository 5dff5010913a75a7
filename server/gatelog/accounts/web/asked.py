"""The answer between password and factor: a problem document that says what to answer, and how.

It is a 401, like that to a wrong password: nobody is authenticated yet, and there is no session. A
2xx would be taken for a login by clients that look at the status alone; 403 would say that it is of
no use to go on (RFC 9110, section 15.5.4).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from aiohttp import hdrs, web

from gatelog.errors import FactorRequired
from gatelog.http.described import Reply
from gatelog.http.problems import CONTENT_TYPE, problem
from gatelog.moments import Moment

Means = Literal["totp", "passkey", "recovery_code"]


class LoginRefused(msgspec.Struct, omit_defaults=True):
    """A login that has started no session. Of `factor_required` alone: `challenge` goes to
    `/v1/login_factor` with one of `factors`, until `expires_at`; `public_key` is what
    `navigator.credentials.get` takes, where a passkey would do."""

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    challenge: str | None = None
    factors: tuple[Means, ...] | None = None
    expires_at: Moment | None = None
    public_key: dict[str, Any] | None = None


REFUSED_OR_ASKED: Final = Reply(
    content={CONTENT_TYPE: LoginRefused},
    says="Login or password is wrong (`invalid_credentials`); or a second factor is required"
    " (`factor_required`).",
)
_encode = msgspec.json.Encoder().encode


def asked(required: FactorRequired) -> web.StreamResponse:
    """The answer to who knows the password, and has a factor."""
    response = problem(required)
    response.body = _encode(
        LoginRefused(
            type=f"urn:gatelog:problem:{required.code}",
            title=required.title,
            status=required.status,
            code=required.code,
            detail=required.detail,
            challenge=required.challenge,
            factors=required.means,  # type: ignore[arg-type]  # they are those
            expires_at=required.expires_at,
            public_key=required.passkey,
        )
    )
    response.headers[hdrs.CONTENT_TYPE] = CONTENT_TYPE
    return response
