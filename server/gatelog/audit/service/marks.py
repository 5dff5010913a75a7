"""Keeping the marks up with the log (``gatelog.audit.store.marks``), on the host of the sealer.

Nothing waits for them: without them, as-of queries and purges take longer. Several may run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from gatelog.audit.store.marks import SPACING, Spacing, make_next_mark
from gatelog.errors import GatelogError
from gatelog.log.store.database import LOST, translated_errors

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0
RETRY_S = 10.0


async def keep_marks(
    connect: Callable[[], Awaitable[Connection]],
    *,
    spacing: Spacing = SPACING,
    interval_s: float = INTERVAL_S,
    retry_s: float = RETRY_S,
) -> None:
    """Make marks until cancelled, on a new connection after every loss.

    What cannot be marked (a damaged log) is told again and again.
    """
    while True:
        try:
            connection = await connect()
            try:
                with translated_errors():
                    await _mark_on(connection, spacing, interval_s)
            finally:
                with suppress(*LOST):
                    await connection.close(timeout=1)
        except GatelogError as error:
            logger.warning("marks: %s; trying again", error)
            await asyncio.sleep(retry_s)
        except Exception:  # the sealer, which shares the process, must not end with it
            logger.exception("marks: trying again")
            await asyncio.sleep(retry_s)


async def _mark_on(connection: Connection, spacing: Spacing, interval_s: float) -> None:
    while True:
        if await make_next_mark(connection, spacing) is None:
            await asyncio.sleep(interval_s)
