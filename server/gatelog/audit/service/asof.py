"""As of: who was logged in at a time or a position, for who may ask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from gatelog.audit.store.asof import (
    MAX_PAGE,
    Moment,
    SessionPage,
    moment_of_position,
    moment_of_time,
    sessions_then,
)
from gatelog.clock import utc_now
from gatelog.errors import InvalidInput
from gatelog.log.store.database import Database


class AsOf:
    """Answers from the log and its marks."""

    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def sessions(
        self,
        *,
        at: datetime | None = None,
        position: int | None = None,
        user: UUID | None = None,
        before: int | None = None,
        limit: int = MAX_PAGE,
    ) -> SessionPage:
        """A page of the sessions that were active then, those that started last first.

        Give a time or a position; ``before``: of those that started before this position. Raises
        InvalidInput for a moment that is still to come, Purged for one that the log does not reach
        back to.
        """
        now = self._now()
        if at is not None and at > now:
            raise InvalidInput("This time is still to come.")
        async with self._database.acquire() as connection:
            moment: Moment
            if at is not None:
                moment = await moment_of_time(connection, at)
            elif position is not None:
                moment = await moment_of_position(connection, position)
            else:
                raise InvalidInput("Give a time or a position.")
            return await sessions_then(
                connection, moment, before=before, limit=limit, now=now, user=user
            )
