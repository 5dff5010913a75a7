"""A real service for tests: ``run.py serve`` as processes of their own on a directory of theirs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil
from gatelog.host.nursery import ROLES
from gatelog.host.processes import running

from tests.contract import contract
from tests.waiting import eventually

ROOT = Path(__file__).parent.parent.parent
RUN = [sys.executable, str(ROOT / "run.py")]
# Limits on what takes a moment, for a machine that does much else.
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 90.0
COMMAND_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 60.0
CHEAP = {  # as cheap as a hash may be, and short waits for replicas that are not there
    "GATELOG_LEASE_TTL_S": "0.5",
    "GATELOG_ARGON2_MEMORY_KIB": "8",
    "GATELOG_ARGON2_TIME_COST": "1",
    # tests log in, and fail to, as often as they like
    "GATELOG_LOGIN_TRIES": "100000",
    "GATELOG_REGISTRATION_TRIES": "100000",
    "GATELOG_HASHING_QUEUE": "1000",
}
PASSWORD = "correct horse battery staple"


def environment(data_dir: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The variables of a service on this directory, and nothing of Gatelog's from outside."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GATELOG_", "COLUMNS"))}
    own = {
        "GATELOG_DATA_DIR": str(data_dir),
        "GATELOG_REPLICA_DIR": str(data_dir / "memory"),
        "GATELOG_PORT": "0",
    }
    return kept | own | CHEAP | dict(settings)


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command said on standard error for itself; warnings of what it runs are none."""
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("gatelog: ")]


def run_command(
    data_dir: Path, *arguments: str, stdin: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*RUN, *arguments],
        env=environment(data_dir, settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


class Answer:
    """An HTTP answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookie(self) -> str:
        """The cookie that the answer sets, as a client sends it back."""
        return str(self.headers["Set-Cookie"]).partition(";")[0]


class Captured:
    """A file for output; its text can be read while it grows, and when it is closed."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        self._last = ""

    @property
    def text(self) -> str:
        if not self.file.closed:
            size = os.fstat(self.file.fileno()).st_size
            self._last = os.pread(self.file.fileno(), size, 0).decode()
        return self._last

    def close(self) -> None:
        self._last = self.text
        self.file.close()


class Service:
    """``run.py serve``, as long as it runs.

    Its output goes to files: a pipe that nobody reads would stop it when it is full.
    """

    def __init__(self, data_dir: Path, *, arguments: Sequence[str] = (), **settings: str) -> None:
        self.data_dir = data_dir
        self.settings = settings
        self.port = 0
        self._output, self._log = Captured(), Captured()
        self.process = subprocess.Popen(
            [*RUN, "serve", *arguments],
            env=environment(data_dir, settings),
            stdin=subprocess.DEVNULL,
            stdout=self._output.file,
            stderr=self._log.file,
        )

    @property
    def printed(self) -> str:
        return self._output.text

    @property
    def logged(self) -> str:
        return self._log.text

    def wait_until_announced(self) -> None:
        """Wait until it has told the address and the walk."""
        eventually(
            lambda: "Ctrl-C" in self.printed or self.process.poll() is not None,
            START_TIMEOUT_S,
            "the start",
        )
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.printed)
        assert found, f"it did not start: {self.logged}"
        self.port = int(found[1])

    def wait_until_logged(self, text: str) -> None:
        eventually(lambda: text in self.logged, STOP_TIMEOUT_S, f"{text!r} in the log")

    # requests

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        cookie: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        text: str | None = None,
    ) -> Answer:
        """One request on a connection of its own. ``body``: as JSON; ``text``: as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT_S)
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = "application/json"
        if cookie is not None:
            sent["Cookie"] = cookie
        try:
            connection.request(method, path, json.dumps(body) if body else text, sent)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        contract().check(method, path, answer.status, dict(answer.headers), content)
        return Answer(answer.status, answer.headers, content)

    def register(self, login: str = "ada", password: str = PASSWORD) -> int:
        body = {"login": login, "password": password}
        return self.request("POST", "/v1/register_user", body).status

    def log_in(self, login: str = "ada", password: str = PASSWORD) -> Answer:
        return self.request("POST", "/v1/login_user", {"login": login, "password": password})

    def me(self, cookie: str | None = None) -> int:
        return self.request("GET", "/v1/me", cookie=cookie).status

    def is_ready(self) -> bool:
        try:
            return self.request("GET", "/health/ready").status == 200
        except (OSError, HTTPException):
            return False

    def accepts(self, cookie: str) -> bool:
        """Whether this session was accepted; no answer is none, as while a worker ends."""
        try:
            return self.me(cookie) == 200
        except (OSError, HTTPException):
            return False

    def takes_logins(self, login: str = "ada") -> bool:
        """Whether this user's login was accepted."""
        try:
            return self.log_in(login).status == 200
        except (OSError, HTTPException):
            return False

    # processes

    def postgres(self) -> list[psutil.Process]:
        """The postmaster, when it runs."""
        return _children(self.process.pid, lambda child: "-D" in child.cmdline())

    def nursery(self) -> list[psutil.Process]:
        """What has forked the others, when it runs."""
        return _children(self.process.pid, lambda child: "gatelog.host.nursery" in child.cmdline())

    def master(self) -> list[psutil.Process]:
        """gunicorn's master, when it runs."""
        return self._forked("workers")

    def workers(self) -> list[psutil.Process]:
        return [worker for master in self.master() for worker in _children(master.pid)]

    def projector(self) -> list[psutil.Process]:
        return self._forked("projector")

    def sealer(self) -> list[psutil.Process]:
        return self._forked("sealer")

    def _forked(self, role: str) -> list[psutil.Process]:
        def is_it(child: psutil.Process) -> bool:
            return bool(child.name() == ROLES[role][1])

        return [child for nursery in self.nursery() for child in _children(nursery.pid, is_it)]

    def everything(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *self._descendants()]

    def _descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and return its exit code; what it printed is kept."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for its end; returns its exit code."""
        status = self.process.wait(timeout_s)
        self._output.close()
        self._log.close()
        return status


def _children(
    parent: int, fits: Callable[[psutil.Process], bool] = lambda _: True
) -> list[psutil.Process]:
    found = []
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        for child in psutil.Process(parent).children():
            with suppress(psutil.NoSuchProcess):
                if running(child.pid) and fits(child):
                    found.append(child)
    return found


@contextmanager
def serving(data_dir: Path, **settings: str) -> Iterator[Service]:
    """A service that has announced itself, stopped in the end if it has not ended before."""
    service = Service(data_dir, **settings)
    try:
        service.wait_until_announced()
        yield service
    finally:
        try:
            service.stop()
        except subprocess.TimeoutExpired:
            service.process.kill()
            service.wait()
            raise
