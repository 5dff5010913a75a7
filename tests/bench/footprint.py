"""``python -m tests.bench.footprint``: what one host takes before anybody asks it for anything.

It runs ``run.py serve`` with the embedded database and measures

- the import of each entry point, in a fresh interpreter;
- a start, the first on an empty directory (cold) and later ones (warm): from the start of the
  process to the first 200 of ``/health/ready``, and to the first real answer to a session's cookie;
- memory, as PSS by process (``smaps_rollup`` in proc(5)), with the sessions in the replica;
- the CPU time of a minute in which nobody asks, by process, PostgreSQL's included; the kernel's own
  count (clock_getcpuclockid(3)), and of children that ended meanwhile (``cutime`` in proc(5));
- how long logouts take, one after the other and each after a second of silence.

With ``--checkout DIR --python PROGRAM --package NAME`` it measures another checkout in the same
way, so that before and after come from one session; processes are told apart by the process tree
alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
import psutil
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.database import connect
from rich.console import Console

from tests.bench.machine import ServerProcess, make_table, quantile, spread
from tests.bench.population import fill_postgres, token

ROOT = Path(__file__).parent.parent.parent
ENTRIES = ("cli", "host.supervisor", "host.worker", "host.projector", "host.sealer", "host.nursery")
OLD_ENTRIES = ("cli", "supervisor", "worker", "projector", "sealer")  # of the package "server"
CREDENTIALS = {"login": "ada", "password": "correct horse battery staple"}
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
SETTLE_S = 12.0  # for what a start leaves to be done: statistics, the first renewals
_POLL_S = 0.002
_MIB = 1024.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_DATABASE = "PostgreSQL"


class Subject(msgspec.Struct, frozen=True):
    """What is measured: a checkout, its interpreter and the name of its package."""

    checkout: Path
    python: str
    package: str

    @property
    def entries(self) -> list[str]:
        names = OLD_ENTRIES if self.package == "server" else ENTRIES
        return [f"{self.package}.{name}" for name in names]


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    sessions: int = 100_000
    workers: int = 2
    imports: int = 7
    starts: int = 5
    idle_s: float = 60.0
    settle_s: float = SETTLE_S
    logouts: int = 100
    rested_logouts: int = 20


QUICK = Plan(
    sessions=1000, imports=1, starts=1, idle_s=2, settle_s=0.5, logouts=5, rested_logouts=1
)


# --- a service


class Start(msgspec.Struct, frozen=True):
    """Seconds from the start of the process."""

    ready_s: float
    answer_s: float


class Host:
    """``run.py serve`` of a checkout, on a directory of its own."""

    def __init__(self, subject: Subject, plan: Plan, directory: Path, memory: Path) -> None:
        self._subject = subject
        self._directory = directory
        self._memory = memory
        self.port = _free_port()
        self._settings = {
            "GATELOG_DATA_DIR": str(directory / "var"),
            "GATELOG_REPLICA_DIR": str(memory),
            "GATELOG_PORT": str(self.port),
            "GATELOG_WORKERS": str(plan.workers),
            "GATELOG_REGISTRATION": "open",
            "GATELOG_ARGON2_MEMORY_KIB": "8",
            "GATELOG_ARGON2_TIME_COST": "1",
            "GATELOG_REGISTRATION_TRIES": "100000",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, bearer: str, status: int) -> Start:
        """Start it; returns when it is ready and has answered this token with this status."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GATELOG_")}
        kept.pop("PYTHONPATH", None)
        with (self._directory / "log").open("ab") as log:
            began = time.perf_counter()
            self._process = subprocess.Popen(
                [self._subject.python, "run.py", "serve"],
                cwd=self._subject.checkout,
                env=kept | self._settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        times: dict[str, float] = {}
        wanted = {"/health/ready": 200, "/v1/me": status}
        while wanted:
            for path in list(wanted):
                if self._status(path, bearer) == wanted[path]:
                    times[path] = time.perf_counter() - began
                    del wanted[path]
            self._check_alive(began)
            time.sleep(_POLL_S)
        return Start(times["/health/ready"], times["/v1/me"])

    def _check_alive(self, began: float) -> None:
        late = time.perf_counter() - began > START_TIMEOUT_S
        if late or (self._process is not None and self._process.poll() is not None):
            raise RuntimeError(f"it did not start:\n{(self._directory / 'log').read_text()}")

    def _status(self, path: str, bearer: str) -> int | None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {bearer}"})
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def processes(self) -> list[psutil.Process]:
        """All of it, the supervisor first."""
        assert self._process is not None
        supervisor = psutil.Process(self._process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def fill(self, sessions: int) -> None:
        """Put active sessions into the projection, while it runs; a later replica has them."""
        dsn = EmbeddedPostgres(self._directory / "var").superuser_dsn("gatelog")

        async def fill() -> None:
            owner = await connect(dsn, role=None)
            try:
                await fill_postgres(owner, sessions)
            finally:
                await owner.close()

        asyncio.run(fill())

    def forget_replica(self) -> None:
        """Let the next start load its replica anew."""
        shutil.rmtree(self._memory)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def host(subject: Subject, plan: Plan) -> Iterator[Host]:
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108
    with (
        tempfile.TemporaryDirectory(prefix="footprint-", ignore_cleanup_errors=True) as directory,
        tempfile.TemporaryDirectory(
            prefix="footprint-", dir=memory, ignore_cleanup_errors=True
        ) as replica,
    ):
        measured = Host(subject, plan, Path(directory), Path(replica) / "replica")
        try:
            yield measured
        finally:
            measured.stop()


# --- its processes


def role_of(process: psutil.Process, supervisor: int) -> str:
    """What a process is, by what the tree says of it."""
    words = process.cmdline()
    if process.name() == "postgres":
        return _database_role(" ".join(words))
    if process.pid == supervisor:
        return "supervisor"
    name = process.name().removeprefix("gate:")
    if not name.startswith("python"):
        return name
    module = words[words.index("-m") + 1].rpartition(".")[2] if "-m" in words else "?"
    parent = process.parent()
    forked = parent is not None and parent.cmdline() == words
    return module if forked or module != "worker" else "master"


def _database_role(title: str) -> str:
    if not title.startswith("postgres: "):
        return f"{_DATABASE}: postmaster"
    kind = title.removeprefix("postgres: ").strip()
    return f"{_DATABASE}: backends" if "gatelog" in kind else f"{_DATABASE}: {kind.split(':')[0]}"


def by_role(host: Host, amount: Callable[[psutil.Process], float]) -> dict[str, list[float]]:
    """The amount for every process, in lists by its role."""
    found: dict[str, list[float]] = defaultdict(list)
    processes = host.processes()
    for process in processes:
        with suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            found[role_of(process, processes[0].pid)].append(amount(process))
    return found


def pss_mib(process: psutil.Process) -> float:
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / _MIB
    raise ProcessLookupError(process.pid)


def cpu_s(process: psutil.Process) -> float:
    """CPU time so far, with that of children that have ended."""
    with suppress(OSError):
        ended = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[13:15]
        return ServerProcess(process.pid, 0).cpu_s() + sum(map(int, ended)) / _TICKS_PER_S
    raise ProcessLookupError(process.pid)


def idle_cpu(host: Host, seconds: float) -> dict[str, list[float]]:
    """CPU time of each process during this time in % of a core, and how often it slept, by role."""

    def now() -> dict[psutil.Process, tuple[float, int]]:
        found = {}
        for process in host.processes():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                found[process] = (cpu_s(process), process.num_ctx_switches().voluntary)
        return found

    supervisor, before, began = host.processes()[0].pid, now(), time.perf_counter()
    time.sleep(seconds)
    after, lasted = now(), time.perf_counter() - began
    result: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for process, (used, slept) in after.items():
        used_before, slept_before = before.get(process, (0.0, 0))
        with suppress(psutil.NoSuchProcess):  # it has ended since
            role = result[role_of(process, supervisor)]
            role[0] += (used - used_before) / lasted * 100
            role[1] += (slept - slept_before) / lasted
    return result


# --- what a client sees


class Client:
    """One connection that is kept until it is closed."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def post(self, path: str, body: dict[str, str] | None = None, bearer: str = "") -> bytes:
        """The answer's body. Raises RuntimeError unless it is a success."""
        headers = {"Content-Type": "application/json"} if body else {}
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        self._connection.request("POST", path, json.dumps(body) if body else None, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{path}: {answer.status} {content!r}")
        return content

    def log_in(self) -> str:
        answer = self.post("/v1/login_user", {**CREDENTIALS, "token": "bearer"})
        return str(json.loads(answer)["token"])

    def log_out_ms(self, bearer: str) -> float:
        began = time.perf_counter()
        self.post("/v1/logout_user", bearer=bearer)
        return (time.perf_counter() - began) * 1000


def logouts_ms(port: int, number: int, rest_s: float) -> list[float]:
    """How long logouts take, each after so much silence."""
    times = []
    with closing(Client(port)) as client:
        for _ in range(number):
            bearer = client.log_in()
            time.sleep(rest_s)
            times.append(client.log_out_ms(bearer))
    return times


# --- the measurement


class Result(msgspec.Struct, frozen=True):
    imports_s: dict[str, list[float]]
    cold: Start
    warm: list[Start]
    pss_mib: dict[str, list[float]]
    cpu: dict[str, list[float]]
    logouts_ms: list[float]
    rested_ms: list[float]


def measure(subject: Subject, plan: Plan) -> Result:
    imports = {name: import_times_s(subject, name, plan.imports) for name in subject.entries}
    with host(subject, plan) as measured:
        cold = measured.start(secrets.token_urlsafe(32), 401)
        with closing(Client(measured.port)) as client:
            client.post("/v1/register_user", CREDENTIALS)
            bearer = client.log_in()
        measured.fill(plan.sessions)
        measured.stop()
        measured.forget_replica()
        measured.start(bearer, 200)
        measured.stop()
        warm = []
        for _ in range(plan.starts):
            warm.append(measured.start(bearer, 200))
            measured.stop()
        measured.start(token(plan.sessions - 1), 200)
        logouts_ms(measured.port, plan.logouts // 2, 0.0)  # every worker has met all paths
        time.sleep(plan.settle_s)
        pss = by_role(measured, pss_mib)
        cpu = idle_cpu(measured, plan.idle_s)
        return Result(
            imports,
            cold,
            warm,
            pss,
            cpu,
            logouts_ms(measured.port, plan.logouts, 0.0),
            logouts_ms(measured.port, plan.rested_logouts, 1.0),
        )


def import_times_s(subject: Subject, module: str, number: int) -> list[float]:
    """How long an interpreter lives that does nothing but this import, start and end included."""
    times = []
    for _ in range(number):
        began = time.perf_counter()
        subprocess.run([subject.python, "-c", f"import {module}"], cwd=subject.checkout, check=True)
        times.append(time.perf_counter() - began)
    return times


def show(console: Console, result: Result, plan: Plan) -> None:
    table = make_table("Import of an entry point, median (quartiles)", "module", "s")
    for name, times in result.imports_s.items():
        table.add_row(name, spread(times, ".2f"))
    console.print(table)

    table = make_table("Start, in s", "", "first 200 of /health/ready", "first real answer")
    table.add_row("cold", f"{result.cold.ready_s:.2f}", f"{result.cold.answer_s:.2f}")
    ready, answers = [s.ready_s for s in result.warm], [s.answer_s for s in result.warm]
    table.add_row("warm, median (quartiles)", spread(ready, ".2f"), spread(answers, ".2f"))
    console.print(table)

    table = make_table(
        f"One idle host, {plan.workers} workers, {plan.sessions:,} sessions",
        "",
        *("processes", "PSS, MiB", "CPU, % of a core", "wake-ups/s"),
    )
    groups = {"Python": [0.0] * 4, _DATABASE: [0.0] * 4}
    for role in dict.fromkeys([*result.pss_mib, *result.cpu]):
        sizes, (used, woken) = result.pss_mib.get(role, []), result.cpu.get(role, [0.0, 0.0])
        row = [len(sizes), sum(sizes), used, woken]
        group = groups[_DATABASE if role.startswith(_DATABASE) else "Python"]
        group[:] = [total + value for total, value in zip(group, row, strict=True)]
        table.add_row(role, *_row(row))
    table.add_section()
    for name, row in groups.items():
        table.add_row(f"all of {name}", *_row(row))
    table.add_row("all", *_row([sum(pair) for pair in zip(*groups.values(), strict=True)]))
    console.print(table)

    table = make_table("Logout, in ms", "", "number", "p50", "p90", "max")
    for name, times in (("at once", result.logouts_ms), ("after 1 s", result.rested_ms)):
        figures = (quantile(times, 0.5), quantile(times, 0.9), max(times))
        table.add_row(name, str(len(times)), *(f"{figure:.1f}" for figure in figures))
    console.print(table)


def _row(numbers: list[float]) -> list[str]:
    count, pss, used, woken = numbers
    return [f"{count:.0f}", f"{pss:.1f}", f"{used:.2f}", f"{woken:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="What one idle host takes.")
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="what is measured")
    parser.add_argument("--python", help="its interpreter; else its .venv's, or this one")
    parser.add_argument("--package", default="gatelog", help="the name of its package")
    chosen = parser.parse_args()
    own = chosen.checkout / ".venv" / "bin" / "python"
    python = chosen.python or (str(own) if own.exists() else sys.executable)
    subject = Subject(chosen.checkout, python, chosen.package)
    plan = QUICK if chosen.quick else Plan()
    console = Console()
    if not console.is_terminal:
        console.width = 130
    began = time.perf_counter()
    result = measure(subject, plan)
    console.print(f"{subject.checkout}, measured in {time.perf_counter() - began:.0f} s")
    show(console, result, plan)


if __name__ == "__main__":
    main()
