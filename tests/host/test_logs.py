"""The log on standard error: one record a line, whatever it holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

PROGRAM = """
import logging, os
from gatelog.config import load_config
from gatelog.host.logs import configure_logging
configure_logging(load_config(os.environ))
logging.getLogger("gunicorn.error").warning("two\\nlines and %s", '"quotes"')
try:
    raise ValueError("broken")
except ValueError:
    logging.getLogger("gatelog").exception("failed")
"""


def logged(log_format: str, program: str = PROGRAM) -> str:
    """What the program writes, in a time zone that is not UTC."""
    environment = {**os.environ, "GATELOG_LOG_FORMAT": log_format, "TZ": "Pacific/Auckland"}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stderr


def test_every_line_is_an_object() -> None:
    first, second = (json.loads(line) for line in logged("json").splitlines())
    assert first["message"] == 'two\nlines and "quotes"'
    assert (first["level"], first["logger"]) == ("warning", "gunicorn.error")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first["time"])).total_seconds() < 60
    assert "ValueError: broken" in second["exception"]


def test_a_record_for_people_begins_at_the_margin() -> None:
    lines = logged("text").splitlines()
    first, continued, second, *trace = lines
    assert re.search(r" WARNING \[\d+\] gunicorn\.error: two$", first)
    assert continued == '    lines and "quotes"'
    assert second.endswith("gatelog: failed")
    assert "    ValueError: broken" in trace
    assert all(line.startswith("    ") for line in trace)
    written = datetime.fromisoformat(first.partition(" ")[0])
    assert written.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - written).total_seconds() < 60


HOSTILE = (
    "x\r2026-01-01 CRITICAL forged\x1b[2J\x85\u2028\u202egnp.exe\x00\x7f\n2026 CRITICAL forged"
)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_in_a_record_passes_for_another_or_is_obeyed(log_format: str) -> None:
    program = PROGRAM.partition("try:")[0] + f"logging.error({HOSTILE!r})"
    written = logged(log_format, program)
    assert set(written) & set(HOSTILE) <= {"\n", *map(chr, range(0x20, 0x7F))}
    records = [line for line in written.splitlines() if not line.startswith("    ")]
    assert len(records) == 2
    assert "CRITICAL" in written
    if log_format == "json":
        assert json.loads(records[1])["message"] == HOSTILE
    else:
        assert r"\x1b[2J" in written
