"""The tests of aiohttp-session's own source distribution that are of no storage in particular.

They are fetched from the package index, in the version that is installed, and nothing of them is
kept here; without the index the test is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The others are about one storage's own cookie or server.
INDEPENDENT = (
    "test_get_session.py",
    "test_http_exception.py",
    "test_response_types.py",
    "test_session_dict.py",
    "test_session_middleware.py",
    "typedefs.py",
)
LEAST = 20  # that there are, so that none being found is no success


def fetch(folder: Path) -> Path:
    """The archive of the installed version."""
    wanted = f"aiohttp-session=={version('aiohttp-session')}"
    options = ("--quiet", "--no-deps", "--no-binary", "aiohttp-session", "--dest", folder)
    try:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, wanted],
            check=True,
            capture_output=True,
            timeout=120,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("the source distribution cannot be fetched")
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.mark.parametrize("logged_in", ["", "1"], ids=["visitor", "logged_in"])
def test_they_pass_with_ours(tmp_path: Path, logged_in: str) -> None:
    package = tmp_path / "upstream"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "conftest.py").write_text("from tests.session_data.upstream import *  # noqa\n")
    with tarfile.open(fetch(tmp_path)) as archive:
        for member in archive.getmembers():
            name = Path(member.name).name
            if member.isfile() and "/tests/" in member.name and name in INDEPENDENT:
                content = archive.extractfile(member)
                assert content is not None
                (package / name).write_bytes(content.read())
    found = {path.name for path in package.iterdir()}
    assert found >= set(INDEPENDENT)
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider"),
            *("-o", "asyncio_mode=auto", "-o", "addopts=", "--rootdir", tmp_path, package),
        ],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "UPSTREAM_LOGGED_IN": logged_in,
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = int(ran.stdout.rpartition(" passed")[0].split()[-1].lstrip("="))
    assert passed >= LEAST, ran.stdout
