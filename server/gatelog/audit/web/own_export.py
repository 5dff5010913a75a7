"""All that the service has about its caller, as one JSON document: to take along (GDPR, articles 15
and 20).

Rules:

- It has what the caller may see: the account, sessions, tokens, factors, address of mail, and every
  event about them that is in the log, oldest first, up to the position at which it began.
- It is sent piece by piece, and is checked all the way: it ends with the session that asked for it.
  One that is not whole is no JSON, and its connection is reset.
- A worker makes as many at a time as it makes exports (``GATELOG_EXPORTS``); beyond them 503.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import msgspec
from aiohttp import hdrs, web

from gatelog.accounts.service.sessions import DescribedSession
from gatelog.accounts.service.tokens import DescribedToken
from gatelog.accounts.web import ACCOUNTS
from gatelog.audit.rules.shown import AuditFilter, ShownEvent
from gatelog.audit.web.events import AUDIT
from gatelog.audit.web.export import EXPORTS, POSITION_HEADER, reset
from gatelog.clock import utc_now
from gatelog.errors import GatelogError, RecentLoginRequired
from gatelog.http.answers import JSON, encode, keep_private
from gatelog.http.described import Reply, describes
from gatelog.http.guard import SESSION, no_tokens
from gatelog.http.recheck import Asker
from gatelog.http.roles import refuse_old_login
from gatelog.moments import Moment

logger = logging.getLogger(__name__)

OWN_EXPORT_PATH: Final = "/v1/me/export"
PAGE: Final = 500  # events, in one query
PIECE: Final = 100  # events, encoded and sent at once
PATIENCE_S: Final = 60.0
_END: Final = b"]}"


class OwnAccount(msgspec.Struct):
    """Who the caller is here."""

    user_id: UUID
    login: str | None
    roles: tuple[str, ...]
    address: str | None
    address_verified_at: Moment | None


class OwnSession(msgspec.Struct):
    """A session that is active."""

    session_id: UUID
    name: str | None
    device: str | None
    address: str | None
    started_at: Moment
    last_seen_at: Moment
    expires_at: Moment
    roles: tuple[str, ...]
    amr: tuple[str, ...]


class OwnToken(msgspec.Struct):
    """A token that is active."""

    token_id: UUID
    name: str | None
    created_at: Moment
    expires_at: Moment
    roles: tuple[str, ...]


class OwnFactor(msgspec.Struct):
    """A second factor."""

    factor_id: UUID
    factor: str
    name: str
    enrolled_at: Moment
    used_at: Moment | None


class OwnData(msgspec.Struct):
    """All that there is about the caller. ``position``: how far into the log the events go."""

    exported_at: Moment
    position: int
    account: OwnAccount
    sessions: list[OwnSession]
    tokens: list[OwnToken]
    factors: list[OwnFactor]
    recovery_codes: int
    events: list[ShownEvent]


@no_tokens
@describes(
    returns={
        200: Reply(
            content={JSON[hdrs.CONTENT_TYPE]: OwnData},
            headers={
                hdrs.CONTENT_DISPOSITION: "A name for the file.",
                POSITION_HEADER: "The position up to which it goes.",
            },
        )
    },
    raises=(RecentLoginRequired,),
)
async def own_export(request: web.Request) -> web.StreamResponse:
    """All that the service has about the caller, to take along."""
    refuse_old_login(request)
    exports = request.app[EXPORTS]
    with exports.place():
        upto = await exports.head()
        response = _response(upto)
        if request.method == hdrs.METH_HEAD:
            return response
        facts = await _facts(request, upto)
        await response.prepare(request)
        try:
            await _send(request, response, facts, upto)
        except ConnectionError:
            pass  # the client has gone
        except (GatelogError, TimeoutError) as error:
            logger.warning("an export is broken off: %s", str(error) or "out of time")
            reset(request)
        except Exception:
            reset(request)
            raise
    return response


async def _facts(request: web.Request, upto: int) -> OwnData:
    """Everything but the events."""
    accounts, me = request.app[ACCOUNTS], request[SESSION].subject_id
    address = await accounts.recovery.address_of(me)
    factors, codes_left = await accounts.factors.described(me)
    return OwnData(
        exported_at=utc_now(),
        position=upto,
        account=OwnAccount(
            me,
            await accounts.users.login_of(me),
            tuple(sorted(request[SESSION].roles)),
            *(address if address is not None else (None, None)),
        ),
        sessions=[_session(each) for each in await accounts.sessions.described(me)],
        tokens=[_token(each) for each in await accounts.tokens.of_user(me)],
        factors=[
            OwnFactor(each.factor_id, each.kind, each.name, each.enrolled_at, each.used_at)
            for each in factors
        ],
        recovery_codes=codes_left,
        events=[],
    )


def _session(each: DescribedSession) -> OwnSession:
    session = each.session
    return OwnSession(
        session_id=session.session_id,
        name=each.name,
        device=each.device,
        address=each.address,
        started_at=session.started_at,
        last_seen_at=session.last_seen_at,
        expires_at=session.expires_at,
        roles=session.roles,
        amr=session.amr,
    )


def _token(each: DescribedToken) -> OwnToken:
    session = each.session
    return OwnToken(
        session.session_id, each.name, session.started_at, session.expires_at, session.roles
    )


async def _send(
    request: web.Request, response: web.StreamResponse, facts: OwnData, upto: int
) -> None:
    """The document, its last member event by event. Raises TimeoutError for who does not read."""
    asker = Asker(request)
    await _write(response, encode(facts).removesuffix(_END))
    comma = b""
    async for page in _pages(request, upto):
        if not await asker.is_there():
            logger.info("an export ends with the session that asked for it")
            reset(request)
            return
        for events in page:
            await _write(response, comma + b",".join(encode(event) for event in events))
            comma = b","
    await _write(response, _END)
    await response.write_eof()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await response.write(data)


async def _pages(request: web.Request, upto: int) -> AsyncIterator[list[list[ShownEvent]]]:
    """What is about the caller, oldest first: pages, each in pieces that are encoded at once."""
    audit, me = request.app[AUDIT], request[SESSION].subject_id
    wanted = AuditFilter(order="asc", before=upto + 1, limit=PAGE)
    while True:
        page = await audit.page_of_own(me, wanted)
        rows = page.events
        yield [rows[start : start + PIECE] for start in range(0, len(rows), PIECE)]
        if page.next is None:
            return
        wanted = msgspec.structs.replace(wanted, cursor=page.next)


def own_export_routes() -> list[web.RouteDef]:
    """The route of one's own data."""
    return [web.get(OWN_EXPORT_PATH, own_export)]


def _response(upto: int) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            **JSON,
            hdrs.CONTENT_DISPOSITION: f'attachment; filename="gatelog-my-data-{upto}.json"',
            hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
            POSITION_HEADER: str(upto),
        }
    )
    keep_private(response)
    return response
