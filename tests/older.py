"""Older versions beside this one: the real program, from history, and how one appended."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from gatelog.log.store.kinds import register_kinds
from gatelog.privacy.rules import Client, Origin
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.store.kinds import ADDRESSES

ROOT = Path(__file__).parents[1]


def program_before(migration: str, tree: Path) -> Path:
    """Unpack the program as it was before this migration; returns where its packages are."""
    added = _git("log", "--diff-filter=A", "--format=%H", "--", f"migrations/versions/{migration}")
    archive = _git("archive", f"{added.split()[-1].decode()}~1", "server", "migrations")
    tree.mkdir()
    subprocess.run(["tar", "-x"], cwd=tree, input=archive, check=True)
    return tree / "server"


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


async def log_in_with(packages: Path, dsn: str, login: str, password: str) -> str:
    """Log in with this program; what comes of it: ``session``, or the code of the refusal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "accounts" / "older_program.py"),
        *(dsn, login, password),
        env=os.environ | {"PYTHONPATH": str(packages)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


@contextmanager
def appending_without_origins() -> Iterator[None]:
    """Meanwhile, events are appended as before migration 0015: found by address alone, and nobody
    says how far they are traced."""
    origin_of = PersonalData.origin_of

    async def only_the_address(
        self: PersonalData, client: Client, login: str | None = None
    ) -> Origin | None:
        origin = await origin_of(self, client)
        return Origin(origin.address) if origin is not None else None

    of_origins = {"origins_erased", "origins_traced", "traced"}
    then = tuple(write for write in ADDRESSES.writes if write.name not in of_origins)
    assert len(then) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PersonalData, "origin_of", only_the_address)
        register_kinds(msgspec.structs.replace(ADDRESSES, writes=then))
        try:
            yield
        finally:
            register_kinds(ADDRESSES)
