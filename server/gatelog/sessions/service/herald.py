"""Tells projectors that something is new for which nobody waits: a session that has started.

Until a replica has it, every check of that session asks the database. The next poll would bring it
as well, so what is lost here is time alone. Rules: not from the connection that appends, INTERVAL_S
later and not more often, because a NOTIFY takes a lock of the whole cluster at its commit; that
commit does not wait for the disk, and nobody waits for it. Who ends sessions waits, and tells it at
once (``gatelog.sessions.service.barrier``).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gatelog.errors import GatelogError
from gatelog.sessions.store.leases import wake_projectors_lazily

if TYPE_CHECKING:
    from gatelog.log.store.database import Database

logger = logging.getLogger(__name__)

INTERVAL_S = 0.025


class Herald:
    """One per process; ``tell`` returns at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._untold = False
        self._task: asyncio.Task[None] | None = None

    def tell(self) -> None:
        """Let projectors know, soon after this, that the log has grown."""
        self._untold = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="herald")

    async def _run(self) -> None:
        while self._untold:
            await asyncio.sleep(INTERVAL_S)
            self._untold = False
            try:
                async with self._database.acquire() as connection:
                    await wake_projectors_lazily(connection)
            except GatelogError as error:
                logger.debug("projectors are left to their polls: %s", error)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
