"""The service as processes: the walk, the second start, the stop, and kill -9 of everything."""

from __future__ import annotations

import json
import signal
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from gatelog.host.processes import running

from tests.stack.service import PASSWORD, START_TIMEOUT_S, Service, run_command, serving
from tests.waiting import eventually

BACK_WITHIN_S = 60.0  # on a busy machine; tests/faults/test_kill.py measures it


def walk(service: Service, user: str) -> list[int]:
    """Login to logout, as statuses."""
    statuses = [service.me(), service.register(user)]
    login = service.log_in(user)
    cookie = login.cookie
    statuses += [login.status, service.me(cookie)]
    statuses.append(service.request("POST", "/v1/logout_user", cookie=cookie).status)
    return [*statuses, service.me(cookie)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; one that nobody has reaped yet has."""
    return [p for p in processes if p.is_running() and running(p.pid)]


def test_from_nobody_to_logged_out_again(shared_service: Service) -> None:
    assert walk(shared_service, "bob") == [401, 201, 200, 200, 200, 401]


def shared_objects(process: psutil.Process) -> set[str]:
    """The packages of which a process has compiled modules in memory."""
    paths = [Path(mapped.path) for mapped in process.memory_maps() if ".so" in mapped.path]
    return {name for path in paths for name in path.parts}


def test_what_only_some_need_is_in_no_other_process(shared_service: Service) -> None:
    """Also where something was migrated at the start, as here."""
    supervisor, *others = shared_service.everything()
    assert not shared_objects(supervisor) & {"aiohttp", "asyncpg", "uvloop", "cryptography"}
    for worker in shared_service.workers():
        assert {"aiohttp", "asyncpg", "uvloop", "cryptography"} <= shared_objects(worker)
    for process in (supervisor, *others):
        assert not shared_objects(process) & {"sqlalchemy", "greenlet"}


def test_one_worker_for_each_that_is_configured(shared_service: Service) -> None:
    assert len(shared_service.workers()) == 2
    assert shared_service.request("GET", "/health/alive").json["workers"] == 2


def test_a_second_start_keeps_everything(data_dir: Path) -> None:
    with serving(data_dir) as service:
        service.register()
        cookie = service.log_in().cookie
        assert service.stop(signal.SIGINT) == 0
    with serving(data_dir) as service:
        assert service.me(cookie) == 200
        assert service.log_in().status == 200


def test_secrets_are_for_nobody_else(shared_service: Service) -> None:
    secrets = shared_service.data_dir / "secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o600}
    told = shared_service.printed + shared_service.logged
    assert not [path.name for path in secrets.iterdir() if path.read_text().strip() in told]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_in_flight_finish(data_dir: Path, number: signal.Signals) -> None:
    with serving(data_dir) as service:
        service.register()
        body = f'{{"login": "ada", "password": "{PASSWORD}"}}'.encode()
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            head = (
                "POST /v1/login_user HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode())
            assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")  # the handler is at work
            everything = service.everything()
            service.process.send_signal(number)
            service.wait_until_logged("stopping")
            connection.sendall(body)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert service.wait() == 0
        assert not alive(everything)
    assert "ended (" not in service.logged  # nothing died before its turn


def test_a_stop_during_the_start_leaves_nothing(data_dir: Path) -> None:
    service = Service(data_dir)
    eventually((data_dir / "postgres").is_dir, START_TIMEOUT_S, "the start")
    children = service.everything()[1:]
    assert service.stop() == 0
    assert not alive(children)
    assert "Traceback" not in service.logged


KILLED: dict[str, Callable[[Service], list[psutil.Process]]] = {
    "the database": lambda service: service.postgres(),
    "one worker": lambda service: service.workers()[:1],
    "all workers": lambda service: service.workers(),
    "their master": lambda service: service.master(),
    "the projector": lambda service: service.projector(),
    "the sealer": lambda service: service.sealer(),
    "the nursery": lambda service: service.nursery(),
}


def follows_the_log(service: Service) -> bool:
    """Whether the host's only replica has all that is in the log, and a lease."""
    hosts = json.loads(run_command(service.data_dir, "status", "--json").stdout)["hosts"]
    return [(host["mode"], host["lag"]) for host in hosts] == [("memory", 0)]


@pytest.mark.parametrize("what", KILLED)
def test_what_is_killed_comes_back(service: Service, what: str) -> None:
    service.register()
    cookie = service.log_in().cookie
    killed = KILLED[what](service)
    assert killed
    for process in killed:
        process.kill()
    eventually(lambda: not alive(killed), BACK_WITHIN_S, "the death of what was killed")
    eventually(service.is_ready, BACK_WITHIN_S, "the service")
    eventually(lambda: service.accepts(cookie), BACK_WITHIN_S, "the session")
    eventually(service.takes_logins, BACK_WITHIN_S, "a login")
    eventually(lambda: len(service.workers()) == 2, BACK_WITHIN_S, "both workers")
    eventually(lambda: len(service.projector()) == 1, BACK_WITHIN_S, "the projector")
    eventually(lambda: len(service.sealer()) == 1, BACK_WITHIN_S, "the sealer")
    eventually(lambda: follows_the_log(service), BACK_WITHIN_S, "the replica's lease")


def test_nothing_outlives_a_killed_supervisor(service: Service) -> None:
    service.register()
    cookie = service.log_in().cookie
    rest = service.everything()[1:]
    service.process.kill()
    service.wait()
    with serving(service.data_dir, **service.settings) as again:
        assert not alive(rest)
        assert again.me(cookie) == 200


def test_a_start_after_everything_was_killed(service: Service) -> None:
    service.register()
    cookie = service.log_in().cookie
    for number in (signal.SIGSTOP, signal.SIGKILL):  # so that none of them sees another one die
        for process in service.everything():
            with suppress(psutil.NoSuchProcess):  # a backend that had done its work
                process.send_signal(number)
    service.wait()
    with serving(service.data_dir, **service.settings) as again:
        assert again.me(cookie) == 200
        check = run_command(service.data_dir, "check")
        assert check.returncode == 0, check.stdout


def test_a_stopped_orphan_is_ended(service: Service) -> None:
    """Processes that cannot act on the supervisor's death are ended by the next start."""
    service.register()
    forked = [*service.nursery(), *service.master(), *service.workers()]
    frozen = [*service.postgres(), *forked]
    for process in frozen:
        process.suspend()
    service.process.kill()
    service.process.wait()
    with serving(service.data_dir, **service.settings, GATELOG_SHUTDOWN_TIMEOUT_S="1") as again:
        assert not alive(frozen)
        assert again.log_in().status == 200


SHOP = """
from aiohttp import web
from gatelog import SESSION, public

async def mine(request):
    return web.json_response({"user": str(request[SESSION].subject_id)})

@public
async def prices(request):
    return web.json_response({"apple": 1})

async def make():
    app = web.Application()
    app.add_routes([web.get("/mine", mine), web.get("/prices", prices)])
    return app
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program in the working directory, and how it is named."""
    (tmp_path / "the_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return "the_shop:make"


def test_an_application_is_hosted_on_every_worker(data_dir: Path, shop: str) -> None:
    with serving(data_dir, GATELOG_APP=shop, GATELOG_MOUNT="/shop") as service:
        service.register()
        cookie = service.log_in().cookie
        asked = [service.request("GET", "/shop/mine", cookie=cookie) for _ in range(20)]
        assert {answer.status for answer in asked} == {200}
        assert len({answer.json["user"] for answer in asked}) == 1
        assert service.request("GET", "/shop/prices").status == 200
        assert service.request("GET", "/shop/mine").status == 401
        assert service.request("POST", "/v1/logout_user", cookie=cookie).status == 200
        asked = [service.request("GET", "/shop/mine", cookie=cookie) for _ in range(20)]
        assert {answer.status for answer in asked} == {401}
