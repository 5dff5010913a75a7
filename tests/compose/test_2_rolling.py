"""More containers, other containers, a newer version: under load, and no request fails."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.conftest import build
from tests.compose.load import FrontLoad
from tests.compose.stack import IMAGE, Stack, inspect, running_stack
from tests.stack.service import ROOT

CLIENTS = 4
OLD_IMAGE = "gatelog:stack-test-old"


@pytest.mark.timeout(600)
async def test_scaled_to_four_under_load(stack: Stack) -> None:
    load = FrontLoad(stack)
    async with load.running(CLIENTS):
        await load.grows()
        for number in (4, 2):
            await asyncio.to_thread(
                stack.up, "--no-deps", "--no-recreate", "--scale", f"api={number}", "api"
            )
            assert len(stack.containers("api")) == number
            await load.grows(15)

    print(dict(load.answers))  # noqa: T201 - shown with -s
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
    print(dict(load.answers))  # noqa: T201 - shown with -s
    load.assert_nothing_failed()


@pytest.fixture
def previous_version(tmp_path: Path) -> Iterator[Path]:
    """The tree of the commit before this one; of this commit, while there is work beyond it."""
    changed = git("status", "--porcelain")
    commit = "HEAD" if changed else "HEAD~1"
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x"], cwd=tmp_path, input=archive, check=True)
    if not (tmp_path / "docker" / "compose.yaml").exists():
        pytest.skip(f"{commit} has no stack yet that could be upgraded")
    build(tmp_path, OLD_IMAGE)
    yield tmp_path


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.timeout(900)
async def test_upgraded_from_the_commit_before_under_load(
    image: str, previous_version: Path
) -> None:
    with running_stack(previous_version, OLD_IMAGE) as stack:
        load = FrontLoad(stack)
        async with load.running(CLIENTS):
            await load.grows()
            stack.environment["GATELOG_IMAGE"] = IMAGE
            await asyncio.to_thread(stack.script, "rolling.sh", "upgrade")
            await load.grows(15)

        containers = stack.containers("api")
        assert len(containers) == 2
        wanted = inspect(IMAGE)["Id"]
        assert all(inspect(container.id)["Image"] == wanted for container in containers)
        print(dict(load.answers))  # noqa: T201 - shown with -s
        load.assert_nothing_failed()
        containers[0].exec("gatelog", "check")
