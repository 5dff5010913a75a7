"""The nursery as a process, with the supervisor's end of it in this one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from gatelog.config import Config
from gatelog.errors import OperatorError
from gatelog.host import children
from gatelog.host.children import Forked, NurseryChild
from gatelog.host.nursery import ROLES
from gatelog.host.processes import running

from tests.waiting import until

NOBODY = "postgresql://nobody@/nothing?host=/nowhere"


@pytest.fixture
async def nursery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NurseryChild]:
    """A nursery whose database does not exist: who needs one waits for it, or ends at once."""
    config = Config(data_dir=str(tmp_path / "var"), database_url=NOBODY)
    config.data_path.mkdir()
    for name, value in (("DATA_DIR", config.data_dir), ("DATABASE_URL", NOBODY)):
        monkeypatch.setenv(f"GATELOG_{name}", value)
    nursery = NurseryChild(config)
    await nursery.start()
    yield nursery
    await nursery.stop()


def process(forked: Forked | NurseryChild) -> psutil.Process:
    its = forked if isinstance(forked, Forked) else forked.process
    assert its is not None
    return psutil.Process(its.pid)


def ended(process: psutil.Process) -> Callable[[], bool]:
    return lambda: running(process.pid) is None


def leads_a_session(pid: int) -> Callable[[], bool]:
    return lambda: os.getsid(pid) == pid


def has_name(process: psutil.Process, name: str) -> Callable[[], bool]:
    return lambda: bool(process.name() == name)


async def test_who_cannot_work_says_why_in_one_line(nursery: NurseryChild) -> None:
    preparation = await nursery.fork("preparation")
    assert await preparation.wait() == 1
    assert preparation.words.startswith("GATELOG_DATABASE_URL: cannot reach the database: ")
    assert "\n" not in preparation.words


async def test_who_is_killed_is_reported(nursery: NurseryChild) -> None:
    projector = await nursery.fork("projector")
    before = projector.returncode
    projector.send_signal(signal.SIGKILL)
    assert await projector.wait() == -signal.SIGKILL
    assert (before, projector.returncode) == (None, -signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        projector.send_signal(signal.SIGTERM)


async def test_what_is_forked_is_a_process_of_its_own(nursery: NurseryChild) -> None:
    projector = await nursery.fork("projector")
    sealer = await nursery.fork("sealer")
    for forked, role in ((projector, "projector"), (sealer, "sealer")):
        await until(leads_a_session(forked.pid))
        await until(has_name(process(forked), ROLES[role][1]))
        assert process(forked).ppid() == process(nursery).pid


async def test_nothing_is_running_in_what_is_forked_from(nursery: NurseryChild) -> None:
    await (await nursery.fork("preparation")).wait()
    sealer = await nursery.fork("sealer")
    assert process(nursery).num_threads() == 1
    assert [c.pid for c in process(nursery).children()] == [sealer.pid]
    ours = [f for f in process(sealer).open_files() if "replica" in f.path]
    assert not ours


async def test_all_end_with_the_nursery_and_can_be_forked_again(nursery: NurseryChild) -> None:
    forked = [await nursery.fork("projector"), await nursery.fork("sealer")]
    processes = [process(each) for each in forked]
    process(nursery).kill()
    assert [await each.wait() for each in forked] == [-signal.SIGTERM, -signal.SIGTERM]
    for left in processes:
        await until(ended(left))
    assert await nursery.wait() == -signal.SIGKILL
    again = asyncio.create_task(nursery.fork("projector"))
    await nursery.start()
    assert (await again).returncode is None


async def test_without_a_nursery_nobody_is_waited_for_for_ever(
    nursery: NurseryChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "START_TIMEOUT_S", 0.1)
    await nursery.stop()
    with pytest.raises(OperatorError, match="the nursery does not answer"):
        await nursery.fork("projector")


async def test_a_nursery_without_a_supervisor_ends(nursery: NurseryChild) -> None:
    await nursery.fork("sealer")
    left = process(nursery)
    assert nursery._control is not None
    asyncio.get_running_loop().remove_reader(nursery._control)
    nursery._control.close()
    await until(ended(left))
    nursery._control = None
