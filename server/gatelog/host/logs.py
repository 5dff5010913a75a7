"""The log on standard error: one line per record, the same in every process.

Rules, whatever a record's text holds (OWASP ASVS 5.0, 16.2.2 and 16.4.1):

- Times are UTC, and say so.
- In JSON a record is one line, in ASCII. For people a record begins at the margin, with its time;
  further lines of it are indented, so that no text can pass for another record.
- What a terminal would obey (control characters) is written out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

from gatelog.config import Config
from gatelog.traces import current_trace_id

FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"

# Control characters but the tab, of ASCII and Latin-1; what else some take for the end of a line;
# what changes the direction of writing.
_obeyed = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class TextLines(logging.Formatter):
    """Each record for people; the time is UTC (RFC 3339).

    One about a request names its trace at the end of the first line.
    """

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time_of(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        trace_id = current_trace_id()
        if trace_id is None:
            return line
        first, newline, others = line.partition("\n")
        return f"{first} trace_id={trace_id}{newline}{others}"

    def format(self, record: logging.LogRecord) -> str:
        shown = _obeyed.sub(lambda found: f"\\x{ord(found[0]):02x}", super().format(record))
        return shown.replace("\n", "\n    ")


class JsonLines(logging.Formatter):
    """Each record as one JSON object on one line; the time is UTC (RFC 3339).

    One about a request has the request's ``trace_id``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
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
        return json.dumps(line)


def configure_logging(config: Config) -> None:
    """Log to standard error from the configured level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if config.log_format == "json" else TextLines())
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    for chatty in ("alembic", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
