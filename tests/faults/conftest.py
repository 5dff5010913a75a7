"""What the fault tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gatelog.config import Config
from gatelog.sessions.store.replica_place import ReplicaPlace

from tests.scratch import in_temporary_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place for a database and hosts, whose replicas go with it.

    Not below pytest's own directory: run by root, that one is closed to the database's account
    whenever another run begins.
    """
    with in_temporary_directory() as name:
        yield Path(name)
        for data_dir in Path(name).glob("host*/"):
            replicas = ReplicaPlace(Config(data_dir=str(data_dir))).base()
            shutil.rmtree(replicas, ignore_errors=True)
