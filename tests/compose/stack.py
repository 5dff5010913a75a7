"""The stack as its operator has it: ``docker compose`` on docker/compose.yaml, and what it runs."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.stack.service import ROOT
from tests.waiting import eventually

IMAGE = "gatelog:stack-test"
COMMAND_TIMEOUT_S = 300.0
HEALTHY_WITHIN_S = 120.0
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def docker(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run docker; what it said is in the error when it fails."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        **options,
    )
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}:\n{done.stderr}"
    return done


def inspect(name: str) -> Any:
    return json.loads(docker("inspect", name).stdout)[0]


def has_engine() -> bool:
    """Whether there is a Docker engine with Compose v2."""
    if shutil.which("docker") is None:
        return False
    both = (docker("info", check=False), docker("compose", "version", check=False))
    return all(done.returncode == 0 for done in both)


def free_port() -> int:
    """A free port that no client gets by chance before the stack listens on it, or again later."""
    lowest = int(PORT_RANGE.read_text().split()[0])
    while True:
        port = random.randrange(10_000, lowest)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


class Container:
    """One container, by its id."""

    def __init__(self, id_: str) -> None:
        self.id = id_

    @property
    def state(self) -> Any:
        return inspect(self.id)["State"]

    @property
    def healthy(self) -> bool:
        state = self.state
        return bool(state["Running"]) and state.get("Health", {}).get("Status") == "healthy"

    def address(self, network: str) -> str:
        """Its address on the network whose name ends so; the host reaches it there."""
        networks = inspect(self.id)["NetworkSettings"]["Networks"]
        found = [item for name, item in networks.items() if name.endswith(network)]
        return str(found[0]["IPAddress"])

    def crash(self) -> None:
        """Kill its process; 'docker kill' would count as a stop, and nothing would restart it."""
        os.kill(self.state["Pid"], signal.SIGKILL)

    def exec(self, *command: str, user: str | None = None, check: bool = True) -> str:
        as_user = ["--user", user] if user else []
        return docker("exec", *as_user, self.id, *command, check=check).stdout

    def logs(self) -> str:
        done = docker("logs", "--tail", "200", self.id)
        return done.stdout + done.stderr


class Stack:
    """One project: its containers, networks and volumes."""

    def __init__(self, root: Path = ROOT, image: str = IMAGE, more: Sequence[Path] = ()) -> None:
        self.project = f"gatelog-test-{secrets.token_hex(4)}"
        self.port = free_port()
        self.up_in_s = 0.0
        self._files = [root / "docker" / "compose.yaml", *more]
        outside = {name: value for name, value in os.environ.items() if name != "COMPOSE_FILE"}
        self.environment = outside | {
            "COMPOSE_PROJECT_NAME": self.project,
            "GATELOG_FRONT": f"127.0.0.1:{self.port}",
            "GATELOG_IMAGE": image,
            "GATELOG_REGISTRATION": "open",
            "GATELOG_LOGIN_TRIES": "100000",
            "GATELOG_REGISTRATION_TRIES": "100000",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        files = [word for path in self._files for word in ("-f", str(path))]
        return docker("compose", *files, *arguments, check=check, env=self.environment)

    def script(self, name: str, *arguments: str) -> str:
        """Run one of docker/*.sh on this stack; returns what it printed."""
        done = self.try_script(name, *arguments)
        assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def try_script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, whether it succeeds or not. It is always of this tree, as its compose file."""
        more = [str(path) for path in self._files[1:]]
        files = ":".join([str(ROOT / "docker" / "compose.yaml"), *more])
        return subprocess.run(
            [str(ROOT / "docker" / name), *arguments],
            env=self.environment | ({"COMPOSE_FILE": files} if more else {}),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    def up(self, *arguments: str) -> float:
        """Start it and wait until everything is healthy; returns after how many seconds."""
        started = time.monotonic()
        self.compose("up", "--detach", "--wait", "--no-build", *arguments)
        return time.monotonic() - started

    def containers(self, service: str) -> list[Container]:
        ids = self.compose("ps", "--quiet", service).stdout.split()
        return [Container(id_) for id_ in ids]

    def config(self) -> Any:
        """What compose makes of the files, with the services of all profiles."""
        return json.loads(self.compose("--profile", "*", "config", "--format", "json").stdout)

    def container(self, service: str) -> Container:
        (only,) = self.containers(service)
        return only

    def wait_until_healthy(self, service: str, within_s: float = HEALTHY_WITHIN_S) -> float:
        return eventually(
            lambda: all(container.healthy for container in self.containers(service)),
            within_s,
            f"{service} healthy",
        )

    def network(self, name: str) -> str:
        return f"{self.project}_{name}"

    def owner_dsn(self) -> str:
        """The database as its owner, as the host reaches it."""
        postgres = self.container("postgres")
        password = postgres.exec("cat", "/secrets/database/owner_password").strip()
        host = postgres.address("_database")
        return f"postgresql://gatelog_owner:{password}@{host}:5432/gatelog"

    def secret(self, volume: str, path: str) -> str:
        """A secret, read by root of the host, out of its volume."""
        name = f"{self.project}_{volume}"
        where = json.loads(docker("volume", "inspect", name).stdout)[0]["Mountpoint"]
        return (Path(where) / path).read_text()

    def destroy(self) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)
        docker("rmi", "--force", f"{self.project}:previous", check=False)  # kept by an upgrade


@contextmanager
def running_stack(
    root: Path = ROOT, image: str = IMAGE, more: Sequence[Path] = ()
) -> Iterator[Stack]:
    """A stack that is up, and gone afterwards with all its volumes."""
    stack = Stack(root, image, more)
    try:
        stack.up_in_s = stack.up()
        yield stack
    finally:
        stack.destroy()
