"""The metrics of this host, for Prometheus to fetch."""

from __future__ import annotations

from aiohttp import hdrs, web
from prometheus_client import CONTENT_TYPE_LATEST

from gatelog.config import Config
from gatelog.errors import NotFound
from gatelog.http.credentials import is_forwarded, is_local
from gatelog.http.guard import public
from gatelog.sessions.service.metrics import exposition


def metrics_routes(config: Config) -> list[web.RouteDef]:
    """The route, unless it is off. It is public: who may ask is decided by where they are."""
    if config.metrics == "off":
        return []

    @public
    async def metrics(request: web.Request) -> web.StreamResponse:
        if config.metrics == "local" and not is_local(request):
            raise NotFound()
        if config.metrics == "direct" and is_forwarded(request):
            raise NotFound()
        headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST, hdrs.CACHE_CONTROL: "no-store"}
        return web.Response(body=exposition(), headers=headers)

    return [web.get("/metrics", metrics)]
