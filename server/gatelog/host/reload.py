"""Tells when the source of the hosted application has changed: for development.

Looking at the times of some files now and then is all that it takes; no system's own way of
watching is needed, and it works on every file system. Rules:

- Watched are the Python files below the working directory, and the application's package where
  that is somewhere else. Left out are hidden directories, virtual environments, the caches of tools
  and the service's own data.
- An editor may write a file in several steps, and many files in a row: a change is told when
  nothing has moved between two looks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from importlib.util import find_spec
from pathlib import Path

from gatelog.config import Config, variable
from gatelog.errors import ConfigError, OperatorError

LOOK_S = 0.25
MAX_FILES = 20_000
_LEFT_OUT = frozenset({"__pycache__", "node_modules"})
_ENVIRONMENT = "pyvenv.cfg"  # stands in every virtual environment (PEP 405)

# Of each file what a change of it changes: when it was written, its length, its place on the disk.
Look = dict[str, tuple[int, int, int]]


class Sources:
    """The application's source files, wherever they are."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError without an application, OperatorError where there is too much."""
        if not config.app:
            raise ConfigError(variable("app"), "name the application that is to be reloaded")
        here = Path.cwd()
        self._apart = config.data_path.absolute()
        self._places = [here, *_elsewhere(config.app.partition(":")[0].partition(".")[0], here)]
        self.look()

    def look(self) -> Look:
        """What there is now. Raises OperatorError for more than ``MAX_FILES`` files."""
        found: Look = {}
        for place in self._places:
            for path in self._files(place):
                try:
                    status = path.stat()
                except OSError:  # it was there a moment ago
                    continue
                found[str(path)] = (status.st_mtime_ns, status.st_size, status.st_ino)
                if len(found) > MAX_FILES:
                    reason = f"more than {MAX_FILES} source files to watch below {place}"
                    raise OperatorError(f"{reason}: start it in the application's directory")
        return found

    def _files(self, place: Path) -> Iterator[Path]:
        if place.is_file():
            yield place
        for root, folders, files in os.walk(place):
            folders[:] = [name for name in folders if self._is_watched(Path(root, name))]
            yield from (Path(root, name) for name in files if name.endswith(".py"))

    def _is_watched(self, folder: Path) -> bool:
        if folder.name.startswith(".") or folder.name in _LEFT_OUT or folder == self._apart:
            return False
        return not (folder / _ENVIRONMENT).exists()


def _elsewhere(module: str, here: Path) -> list[Path]:
    """Where the module is, if it is not in the working directory."""
    if (here / module).is_dir() or (here / f"{module}.py").exists():
        return []
    found = find_spec(module) if module.isidentifier() else None
    if found is None:
        return []
    if found.submodule_search_locations:
        return [Path(place) for place in found.submodule_search_locations]
    return [Path(found.origin)] if found.origin and Path(found.origin).is_file() else []


async def changes(sources: Sources) -> AsyncGenerator[list[str], None]:
    """The files that have changed, come or gone, each time that some have."""
    known = before = await asyncio.to_thread(sources.look)
    while True:
        await asyncio.sleep(LOOK_S)
        now = await asyncio.to_thread(sources.look)
        if now == before and now != known:
            yield sorted({name for name, _ in known.items() ^ now.items()})
            known = now
        before = now
