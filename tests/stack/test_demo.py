"""The demo: what it walks, and that it tells right answers from wrong ones."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web
from gatelog.host.datadir import locked

from tests.stack.service import Service, run_command

STATUSES = [401, 201, 200, 200, 200, 401]


def test_against_a_temporary_service(data_dir: Path) -> None:
    done = run_command(data_dir, "demo", "--json", GATELOG_WORKERS="2")
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["status"] for step in steps] == [*STATUSES, 401, 401]
    assert len({step["worker"] for step in steps[6:]}) == 2
    assert not data_dir.exists()


def test_against_the_running_service(service: Service) -> None:
    done = run_command(service.data_dir, "demo")
    assert done.returncode == 0, done.stderr
    assert f"The service on http://127.0.0.1:{service.port}" in done.stdout
    for worker in service.workers():
        assert f"worker {worker.pid}" in done.stdout
    # registration closed with that first user: the next demo adds its own
    done = run_command(service.data_dir, "demo")
    assert done.returncode == 0, done.stderr
    assert "403" in done.stdout
    assert "user add demo-" in done.stdout


@contextmanager
def forgetful_service() -> Iterator[str]:
    """Something that answers like the service and does not know that a logout ends a session."""

    async def me(request: web.Request) -> web.Response:
        return web.Response(status=200 if "Cookie" in request.headers else 401)

    async def log_in(_: web.Request) -> web.Response:
        return web.Response(headers={"Set-Cookie": "gatelog=x; Path=/"})

    async def created(_: web.Request) -> web.Response:
        return web.Response(status=201)

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"worker": 1, "workers": 1})

    app = web.Application()
    app.add_routes(
        [
            web.get("/v1/me", me),
            web.post("/v1/register_user", created),
            web.post("/v1/login_user", log_in),
            web.post("/v1/logout_user", me),
            web.get("/health/alive", alive),
        ]
    )
    address: list[str] = []
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        address.append(f"http://{host}:{port}")
        started.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(60)
        yield address[0]
    finally:
        stop.set()
        thread.join()


def test_a_session_that_outlives_its_logout_is_told(data_dir: Path) -> None:
    with forgetful_service() as url, locked(data_dir, "serve") as lock:
        lock.announce(url)
        done = run_command(data_dir, "demo", "--json")
    assert done.returncode == 1
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["status"] for step in steps] == [401, 201, 200, 200, 200, 200, 200]
    assert "Not every answer was as promised" in done.stderr
