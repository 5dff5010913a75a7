"""Directories of tests: in memory where there is enough of it, and gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

ENOUGH_BYTES = 2 << 30
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - containers have little of it


def scratch() -> str | None:
    """Where to make them: making and dropping databases costs ten times as much on a disk."""
    if _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > ENOUGH_BYTES:
        return str(_IN_MEMORY)
    return None


def in_temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """Not below pytest's own directory: run by root, that one is closed to the database's account
    whenever another run of pytest starts.
    """
    return tempfile.TemporaryDirectory(prefix="gatelog-", dir=scratch(), ignore_cleanup_errors=True)
