"""The log on standard error: one line per record, the same in every process."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from gatelog.config import Config
from gatelog.traces import current_trace_id

FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


class TextLines(logging.Formatter):
    """Each record for people; one about a request names its trace at the end of the first line."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        trace_id = current_trace_id()
        if trace_id is None:
            return line
        first, newline, others = line.partition("\n")
        return f"{first} trace_id={trace_id}{newline}{others}"


class JsonLines(logging.Formatter):
    """Each record as one JSON object on one line; the time is UTC (RFC 3339).

    One about a request has the request's ``trace_id``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace_id := current_trace_id():
            line["trace_id"] = trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(config: Config) -> None:
    """Log to standard error from the configured level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if config.log_format == "json" else TextLines())
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    for chatty in ("alembic", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
