"""What device somebody has logged in from, as far as its user agent tells.

The library's data takes 30 MB and a second to load, so it is loaded when it is first needed, which
is when somebody looks at their sessions, and in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import lru_cache


async def devices_of(agents: Iterable[str]) -> dict[str, str | None]:
    """The devices of these user agents, by their texts."""
    return await asyncio.to_thread(_all, set(agents))


def _all(agents: set[str]) -> dict[str, str | None]:
    return {agent: device_of(agent) for agent in agents}


@lru_cache(maxsize=1024)
def device_of(agent: str) -> str | None:
    """Program and system, like ``Firefox on Linux``; None for what nobody knows."""
    from ua_parser import parse

    found = parse(agent)
    program = found.user_agent.family if found.user_agent else None
    system = found.os.family if found.os else None
    if program and system:
        return f"{program} on {system}"
    return program or system
