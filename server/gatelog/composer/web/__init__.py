"""The handlers of the composer, and of what is composed; the keys by which they find their use
cases."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.composer.service.composer import Composer
from gatelog.composer.service.records import Recorder
from gatelog.composer.service.traced import Traced
from gatelog.composer.service.upstreams import Upstreams

COMPOSER: Final = web.AppKey("composer", Composer)
RECORDER: Final = web.AppKey("recorder", Recorder)
UPSTREAMS: Final = web.AppKey("upstreams", Upstreams)
TRACED: Final = web.AppKey("traced", Traced)
