"""A port: what is read at the moment when somebody fetches the metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from aiohttp import web
from prometheus_client.metrics_core import Metric


class Gauges(Protocol):
    """Who reads how things stand."""

    async def read(self) -> Iterable[Metric]:
        """The gauges; those that cannot be known now are left out."""


GAUGES: Final[web.AppKey[Gauges]] = web.AppKey("gauges")
