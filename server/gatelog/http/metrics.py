"""The metrics of this host, for Prometheus to fetch. Each room counts for itself.

Workers are processes: with PROMETHEUS_MULTIPROC_DIR set before anything is counted, they count into
files there, and any of them can tell the sum.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from aiohttp import hdrs, web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, Collector

from gatelog.config import Config
from gatelog.errors import NotFound
from gatelog.http.credentials import is_forwarded, is_local
from gatelog.http.described import Reply, describes
from gatelog.http.gauges import GAUGES
from gatelog.http.guard import public
from gatelog.http.requests import requests_here

_described = describes(returns={200: Reply(content={CONTENT_TYPE_LATEST: str})}, raises=(NotFound,))


def metrics_routes(config: Config) -> list[web.RouteDef]:
    """The route, unless it is off. It is public: who may ask is decided by where they are."""
    if config.metrics == "off":
        return []

    @public
    @_described
    async def metrics(request: web.Request) -> web.StreamResponse:
        """The metrics of this host, for Prometheus. Not found for who may not read them."""
        if config.metrics == "local" and not is_local(request):
            raise NotFound()
        if config.metrics == "direct" and is_forwarded(request):
            raise NotFound()
        gauges = request.config_dict[GAUGES]
        headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST, hdrs.CACHE_CONTROL: "no-store"}
        return web.Response(body=exposition(await gauges.read()), headers=headers)

    return [web.get("/metrics", metrics)]


def exposition(gauges: Iterable[Metric] = ()) -> bytes:
    """All metrics, of all workers of this host, in Prometheus' text format."""
    requests_here.flush()
    told = generate_latest(_registry())
    now = CollectorRegistry()
    now.register(_Read(gauges))
    return told + generate_latest(now)


class _Read(Collector):
    """Gauges that were read just now."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _registry() -> CollectorRegistry:
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if shared is None:
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(_Shared(Path(shared)))
    return registry


class _Shared(Collector):
    """What all processes have counted into their files.

    A process that starts makes a file before it gives it a size, and the library's own reader fails
    on what it finds in between: a file without a size has nothing to tell yet.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in self._directory.glob("*.db") if _says_something(file)]
        return cast("Iterable[Metric]", multiprocess.MultiProcessCollector.merge(files))


def _says_something(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # gauges of a process that has ended
        return False
