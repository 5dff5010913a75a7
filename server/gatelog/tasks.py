"""Tasks side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def first_failure(*loops: Awaitable[None]) -> None:
    """Run these side by side; when one fails, stop the others and raise its error."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
