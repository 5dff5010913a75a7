"""The log in JSON: one object a line, whatever the record holds."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime

PROGRAM = """
import logging, os
from gatelog.config import load_config
from gatelog.host.logs import configure_logging
configure_logging(load_config({"GATELOG_LOG_FORMAT": "json"}))
logging.getLogger("gunicorn.error").warning("two\\nlines and %s", '"quotes"')
try:
    raise ValueError("broken")
except ValueError:
    logging.getLogger("gatelog").exception("failed")
"""


def test_every_line_is_an_object() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    first, second = (json.loads(line) for line in ran.stderr.splitlines())
    assert first["message"] == 'two\nlines and "quotes"'
    assert (first["level"], first["logger"]) == ("warning", "gunicorn.error")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first["time"])).total_seconds() < 60
    assert "ValueError: broken" in second["exception"]
