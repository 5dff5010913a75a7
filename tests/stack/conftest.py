"""Fixtures for tests of processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.service import START_TIMEOUT_S, Service, eventually, serving


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that is not there yet.

    Not below pytest's own directory: run by root, that one is closed to the database's account
    whenever another run of pytest starts.
    """
    with tempfile.TemporaryDirectory(prefix="gatelog-", ignore_cleanup_errors=True) as directory:
        yield Path(directory) / "var"


@pytest.fixture
def service(data_dir: Path) -> Iterator[Service]:
    """A running service with two workers."""
    with serving(data_dir, GATELOG_WORKERS="2") as started:
        eventually(lambda: len(started.workers()) == 2, START_TIMEOUT_S, "both workers")
        yield started
