"""The log on standard error: one line per record, the same in every process."""

from __future__ import annotations

import logging
import sys

from gatelog.config import Config

FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def configure_logging(config: Config) -> None:
    """Log to standard error from the configured level on."""
    logging.basicConfig(
        stream=sys.stderr, level=config.log_level.upper(), format=FORMAT, force=True
    )
    for chatty in ("alembic", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
