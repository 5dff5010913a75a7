"""Writes requirements.lock and build.lock: what goes into the image, to the byte.

    docker run --rm -v "$PWD:/src" -w /src python:3.13-slim python docker/lock.py

from the root of the repository, with the Python that the image has; then read the difference, and
build. pip resolves what setup.cfg asks for, without its extras, to wheels for Linux on x86-64 and
ARM; each gets the hash that the index says, and the build takes nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ARCHITECTURES = ("x86_64", "aarch64")
GLIBCS = ("2_34", "2_28", "2_17")  # newest first; Debian's is newer than all of them
BUILD_REQUIREMENTS = ["setuptools>=68"]  # as in pyproject.toml
HEAD = "# Made by docker/lock.py; do not edit.\n"


def resolve(requirements: list[str], architecture: str) -> list[dict[str, Any]]:
    """What pip would install, as its report has it."""
    platforms = [f"--platform=manylinux_{glibc}_{architecture}" for glibc in GLIBCS]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"),
            *("--quiet", "--disable-pip-version-check", "--report=-", "--only-binary=:all:"),
            *("--target=/nowhere", *platforms, *requirements),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    installed: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return installed


def locked(requirements: list[str]) -> str:
    """The lines of a lock file."""
    hashes: dict[str, set[str]] = {}
    for architecture in ARCHITECTURES:
        for item in resolve(requirements, architecture):
            name = f"{item['metadata']['name'].lower()}=={item['metadata']['version']}"
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            hashes.setdefault(name, set()).add(digest)
    lines = [
        " \\\n    ".join([name, *(f"--hash=sha256:{digest}" for digest in sorted(hashes[name]))])
        for name in sorted(hashes)
    ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    setup = ConfigParser()
    setup.read(HERE.parent / "setup.cfg")
    required = setup["options"]["install_requires"].split("\n")
    wanted = [line.replace(" ", "") for line in required if line.strip()]
    (HERE / "requirements.lock").write_text(locked(wanted))
    (HERE / "build.lock").write_text(locked(BUILD_REQUIREMENTS))


if __name__ == "__main__":
    main()
