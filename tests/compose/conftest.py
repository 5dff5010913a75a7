"""Fixtures for tests of the stack. They need a Docker engine, and the images that the stack names.

All tests share one stack; each leaves it whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import IMAGE, Stack, docker, has_engine, running_stack
from tests.stack.service import ROOT

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is one of the stack; without an engine none of them can run."""
    mine = [item for item in items if HERE in item.path.parents]
    if not mine:
        return
    engine = has_engine()
    for item in mine:
        item.add_marker("stack")
        if not engine:
            item.add_marker(pytest.mark.skip(reason="there is no Docker engine with Compose v2"))


def build(root: Path, image: str) -> float:
    """Build the image of this tree; returns after how many seconds."""
    started = time.monotonic()
    dockerfile = str(root / "docker" / "Dockerfile")
    docker("build", "--quiet", "--file", dockerfile, "--tag", image, str(root))
    return time.monotonic() - started


@pytest.fixture(scope="session")
def image() -> str:
    """The image of this tree."""
    logger.info("built in %.1f s", build(ROOT, IMAGE))
    return IMAGE


@pytest.fixture(scope="session")
def stack(image: str) -> Iterator[Stack]:
    """The stack that all tests share."""
    with running_stack(image=image) as started:
        yield started
