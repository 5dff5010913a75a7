"""Waiting for a condition, with a bound: in an event loop, and where there is none; free ports."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

LOOK_EVERY_S = 0.005
BLOCKING_LOOK_EVERY_S = 0.05  # what is looked at then is other processes, by starting some


async def until(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 15) -> None:
    """Return as soon as the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + within_s
    while True:
        held = condition()
        if not isinstance(held, bool):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"not within {within_s} s: {condition}"
        await asyncio.sleep(LOOK_EVERY_S)


def eventually(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Wait until the condition holds; returns after how many seconds. Fails beyond the limit."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within_s, f"{what}: not within {within_s} s"
        time.sleep(BLOCKING_LOOK_EVERY_S)
    return time.monotonic() - start


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
