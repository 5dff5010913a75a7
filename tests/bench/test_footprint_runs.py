"""The benchmark of an idle host runs to its end, and its figures are of what they say they are."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import psutil
import pytest
from rich.console import Console

from tests.bench.footprint import (
    ENTRIES,
    ROOT,
    START_TIMEOUT_S,
    Plan,
    Result,
    Subject,
    cpu_s,
    measure,
    pss_mib,
    show,
)

PLAN = Plan(
    sessions=100, imports=1, starts=1, idle_s=1.0, settle_s=0.2, logouts=3, rested_logouts=1
)
TIMEOUT_S = 200  # on a busy machine; an idle one needs a tenth of it
BURNT_S = 0.3
BURN = f"import time\nwhile time.process_time() < {BURNT_S}: pass"

pytestmark = pytest.mark.timeout(TIMEOUT_S)


def test_the_quick_run() -> None:
    result = measure(Subject(ROOT, sys.executable, "gatelog"), PLAN)
    check_starts(result)
    check_processes(result)
    check_idleness(result)
    assert len(result.logouts_ms) == PLAN.logouts
    assert len(result.rested_ms) == PLAN.rested_logouts
    assert all(0.1 < ms < 30_000 for ms in (*result.logouts_ms, *result.rested_ms))

    console = Console(file=io.StringIO(), width=130)
    show(console, result, PLAN)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for row in (*result.imports_s, "cold", "supervisor", "all of Python", "all", "after 1 s"):
        assert f"│ {row} " in shown


def check_starts(result: Result) -> None:
    assert set(result.imports_s) == {f"gatelog.{name}" for name in ENTRIES}
    assert all(0.01 < times[0] < 60 for times in result.imports_s.values())
    assert all(len(times) == PLAN.imports for times in result.imports_s.values())
    assert len(result.warm) == PLAN.starts
    for start in (result.cold, *result.warm):
        assert 0.1 < start.ready_s < START_TIMEOUT_S
        assert 0.1 < start.answer_s < START_TIMEOUT_S


def check_processes(result: Result) -> None:
    ours = {role: sizes for role, sizes in result.pss_mib.items() if "PostgreSQL" not in role}
    assert {role: len(sizes) for role, sizes in ours.items()} == {
        "supervisor": 1,
        "nursery": 1,
        "projector": 1,
        "sealer": 1,
        "workers": 1,
        "worker": PLAN.workers,
    }
    assert len(result.pss_mib["PostgreSQL: postmaster"]) == 1
    assert len(result.pss_mib["PostgreSQL: backends"]) >= PLAN.workers
    assert all(2 < size < 200 for sizes in ours.values() for size in sizes)
    # what they share counts once: together they are less than as many interpreters of their own
    assert 30 < sum(map(sum, ours.values())) < 400


def check_idleness(result: Result) -> None:
    assert set(result.cpu) == set(result.pss_mib)
    assert all(used >= 0 and woken >= 0 for used, woken in result.cpu.values())
    used, woken = map(sum, zip(*result.cpu.values(), strict=True))
    assert 0 < used < 100  # % of a core; on a busy machine, soon after its start
    assert 1 < woken < 1000  # per second: renewals at least


def test_memory_is_that_of_the_process() -> None:
    own = psutil.Process()
    before = pss_mib(own)
    assert 5 < before <= own.memory_info().rss / 2**20 + 1
    block = bytearray(os.urandom(1)) * (64 * 2**20)
    assert 60 < pss_mib(own) - before < 80
    del block


def test_processor_time_is_that_of_the_process_and_its_ended_children() -> None:
    own = psutil.Process()
    before = cpu_s(own)
    until = time.process_time() + BURNT_S
    while time.process_time() < until:
        pass
    burnt = cpu_s(own)
    assert BURNT_S <= burnt - before < BURNT_S + 2
    subprocess.run([sys.executable, "-c", BURN], check=True)
    # the kernel counts ended children in ticks, a hundredth of a second each
    assert BURNT_S - 0.03 <= cpu_s(own) - burnt < BURNT_S + 5
