"""For tests of what stands behind the check: real sessions in a real log, and a clock to move.

The fixtures are in ``gatelog.testing.plugin``, which pytest finds by itself; what is imported from
here is loaded when it is first used, so that a run that needs none of it does not pay for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatelog.testing.clients import GatelogClient as GatelogClient
    from gatelog.testing.clients import login_as as login_as
    from gatelog.testing.moving import MovedClock as MovedClock

_HOMES = {
    "GatelogClient": "gatelog.testing.clients",
    "MovedClock": "gatelog.testing.moving",
    "login_as": "gatelog.testing.clients",
}

__all__ = ["GatelogClient", "MovedClock", "login_as"]


def __getattr__(name: str) -> Any:
    """A public name, from where it is at home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
