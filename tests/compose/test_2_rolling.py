"""More containers, other containers, a newer version: under load, and no request fails."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.conftest import build
from tests.compose.load import FrontLoad
from tests.compose.stack import IMAGE, Container, Stack, inspect, running_stack
from tests.stack.service import ROOT
from tests.waiting import eventually

logger = logging.getLogger(__name__)

CLIENTS = 4
OLD_IMAGE = f"{IMAGE}-old"
USED_WITHIN_S = 60.0
# What an image is made of; the README, in its package's metadata only, makes no other version.
IN_IMAGE = (
    *("server", "migrations", "setup.cfg", "pyproject.toml"),
    *("docker/Dockerfile", "docker/build.lock", "docker/requirements.lock"),
    *("docker/healthcheck.py", "docker/make_secrets.py"),
)
FETCH_METRICS = """
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:8080/metrics").read().decode())
"""


def commands_of(container: Container) -> int:
    """How many commands (logins, logouts, …) it has worked off."""
    shown = container.exec("python", "-c", FETCH_METRICS)
    found = re.search(r"^gatelog_command_seconds_count (\d+)", shown, re.MULTILINE)
    return int(found[1]) if found else 0


async def gets_commands(container: Container) -> None:
    """Wait until it has worked off one more."""
    before = await asyncio.to_thread(commands_of, container)

    def has_more() -> bool:
        return commands_of(container) > before

    await asyncio.to_thread(eventually, has_more, USED_WITHIN_S, "another command")


def image_of(container: Container) -> str:
    image: str = inspect(container.id)["Image"]
    return image


def schema_of(stack: Stack) -> str:
    query = "--command=SELECT version_num FROM gatelog_schema"
    asked = ("psql", "--username=postgres", "--dbname=gatelog", "--no-align", "--tuples-only")
    return stack.container("postgres").exec(*asked, query).strip()


@pytest.mark.timeout(600)
async def test_scaled_to_four_under_load(stack: Stack) -> None:
    load = FrontLoad(stack)
    async with load.running(CLIENTS):
        await load.grows()
        for number in (4, 2):
            await asyncio.to_thread(
                stack.up, "--no-deps", "--no-recreate", "--scale", f"api={number}", "api"
            )
            containers = stack.containers("api")
            assert len(containers) == number
            await asyncio.gather(*map(gets_commands, containers))
            await load.grows(15)

    logger.info("%s", dict(load.answers))
    load.assert_nothing_failed()


@pytest.mark.timeout(600)
async def test_every_container_restarted_under_load(stack: Stack) -> None:
    before = {container.id: container.state["StartedAt"] for container in stack.containers("api")}
    load = FrontLoad(stack)
    async with load.running(CLIENTS):
        await load.grows()
        await asyncio.to_thread(stack.script, "rolling.sh", "restart")
        await load.grows(15)

    for container in stack.containers("api"):
        assert container.state["StartedAt"] != before[container.id]
    logger.info("%s", dict(load.answers))
    load.assert_nothing_failed()


@pytest.fixture(params=["version", "schema"])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The tree of the version before this one, or of one before its newest migration; built."""
    if request.param == "version":
        commit = version_before()
    else:
        commit = version_without(newest_migration(ROOT))
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x"], cwd=tmp_path, input=archive, check=True)
    build(tmp_path, OLD_IMAGE)
    yield tmp_path


def version_before() -> str:
    """The last commit whose image is another one than that of this tree."""
    if git("status", "--porcelain", "--", *IN_IMAGE):
        return "HEAD"
    return git("log", "-1", "--format=%H", "--", *IN_IMAGE).strip() + "~1"


def newest_migration(root: Path) -> Path:
    """Its path in this tree; the name begins with the revision."""
    return max((root / "migrations" / "versions").glob("[0-9]*.py")).relative_to(root)


def revision_of(root: Path) -> str:
    return newest_migration(root).name.partition("_")[0]


def version_without(migration: Path) -> str:
    """The last commit that has a stack, and has not got this migration."""
    stack = "docker/compose.yaml"
    for commit in git("rev-list", "HEAD").split():
        found = git("ls-tree", "-r", "--name-only", commit, "--", stack, str(migration)).split()
        if found == [stack]:
            return commit
    raise AssertionError(f"the history here does not reach back to before {migration}")


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.timeout(900)
async def test_upgraded_under_load(image: str, older: Path) -> None:
    old, new = inspect(OLD_IMAGE)["Id"], inspect(image)["Id"]
    assert old != new, "there is nothing to upgrade"
    with running_stack(older, OLD_IMAGE) as stack:
        assert {image_of(container) for container in stack.containers("api")} == {old}
        assert schema_of(stack) == revision_of(older)
        load = FrontLoad(stack)
        async with load.running(CLIENTS):
            await load.grows()
            stack.environment["GATELOG_IMAGE"] = image
            await asyncio.to_thread(stack.script, "rolling.sh", "upgrade")
            await load.grows(15)

        containers = stack.containers("api")
        assert [image_of(container) for container in containers] == [new, new]
        assert image_of(stack.container("sealer")) == new
        stack.wait_until_healthy("sealer")
        assert schema_of(stack) == revision_of(ROOT)
        logger.info("%s", dict(load.answers))
        load.assert_nothing_failed()
        containers[0].exec("gatelog", "check")
        stack.container("sealer").exec("gatelog", "log", "verify")
