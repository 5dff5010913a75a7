"""Fixtures for tests of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.scratch import in_temporary_directory
from tests.stack.service import START_TIMEOUT_S, Service, serving
from tests.waiting import eventually


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that is not there yet."""
    with in_temporary_directory() as directory:
        yield Path(directory) / "var"


@contextmanager
def two_workers(data_dir: Path, **settings: str) -> Iterator[Service]:
    with serving(data_dir, GATELOG_WORKERS="2", **settings) as started:
        eventually(lambda: len(started.workers()) == 2, START_TIMEOUT_S, "both workers")
        yield started


@pytest.fixture
def service(data_dir: Path) -> Iterator[Service]:
    """A running service with two workers, for a test that breaks it."""
    with two_workers(data_dir) as started:
        yield started


@pytest.fixture(scope="session")
def shared_service() -> Iterator[Service]:
    """A running service with two workers, where everybody may register, for who leaves it whole."""
    with (
        in_temporary_directory() as directory,
        two_workers(Path(directory) / "var", GATELOG_REGISTRATION="open") as started,
    ):
        yield started
