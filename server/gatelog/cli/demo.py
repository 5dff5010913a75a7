"""``run.py demo``: the product's promise, walked over HTTP and printed request by request.

Against the running service, or against a temporary one, with a database of its own, when none
runs. The dead token is replayed on one keep-alive connection to each worker; ``/health/alive``
says which worker a connection leads to.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec
from rich.console import Console

from gatelog.cli.output import print_json
from gatelog.cli.users import add_user
from gatelog.config import PREFIX, Config, variable
from gatelog.errors import OperatorError
from gatelog.host.datadir import holder_of
from gatelog.host.processes import child_environment, child_options
from gatelog.http.credentials import LOCAL_COOKIE, SECURE_COOKIE

REQUEST_TIMEOUT_S = 15.0
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
CONNECTIONS_PER_WORKER = 100  # opened at most until every worker has been met
LAST_PAUSE_S = 0.5  # between some of them: a worker may have to start first
_POLL_S = 0.05


class Step(msgspec.Struct, frozen=True):
    """One request of the walk, what it should have been answered with, and what it was."""

    what: str
    method: str
    path: str
    expected: int
    status: int
    worker: int | None = None

    @property
    def right(self) -> bool:
        return self.status == self.expected


class Walk:
    """The steps as they are taken, printed at once."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self.right = True

    def note(self, text: str) -> None:
        click.echo(text, err=self._as_json)

    def take(self, step: Step) -> None:
        self.right = self.right and step.right
        if self._as_json:
            print_json(step)
            return
        verdict = "" if step.right else f"  <- should be {step.expected}"
        where = f" (worker {step.worker})" if step.worker else ""
        request = f"{step.method} {step.path}"
        self._console.print(f"{step.status}  {request:<24} {step.what}{where}{verdict}")


def run(config: Config, as_json: bool) -> int:
    """Walk; returns 0 when every answer was the promised one, else 1."""
    walk = Walk(as_json=as_json)
    with _service(config, walk) as (url, configured):
        try:
            asyncio.run(_walk(url, configured, walk))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OperatorError(
                f"{url} does not answer: {error or type(error).__name__}"
            ) from error
    walk.note(
        "Every answer was as promised." if walk.right else "Not every answer was as promised."
    )
    return 0 if walk.right else 1


# --- the service


@contextmanager
def _service(config: Config, walk: Walk) -> Iterator[tuple[str, Config]]:
    """The address of a running service and the configuration that it runs with."""
    holder = holder_of(config.data_path)
    if holder is not None and holder.url is not None:
        walk.note(f"The service on {holder.url}:")
        yield holder.url, config
        return
    with tempfile.TemporaryDirectory(prefix="gatelog-demo-") as directory:
        settings = {
            variable("data_dir"): directory,
            variable("replica_dir"): str(Path(directory) / "memory"),
            variable("port"): "0",
            variable("workers"): str(config.workers),
            variable("registration"): "open",
            variable("log_level"): "warning",
        }
        with _temporary_service(settings) as process:
            url = _wait_for_url(process, Path(directory))
            walk.note(f"No service runs on {config.data_path}; a temporary one on {url}:")
            yield url, Config(data_dir=directory, registration="open")


@contextmanager
def _temporary_service(settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    inherited = {k: v for k, v in child_environment().items() if not k.startswith(PREFIX)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "gatelog.cli", "serve"],
        env=inherited | settings,
        stdout=subprocess.DEVNULL,
        **child_options(signal.SIGTERM),
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], data_dir: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        holder = holder_of(data_dir)
        if holder is not None and holder.url is not None:
            return holder.url
        if process.poll() is not None:
            raise OperatorError("the temporary service did not start; see the lines above")
        time.sleep(_POLL_S)
    raise OperatorError("the temporary service did not start in time")


# --- the walk


async def _walk(url: str, config: Config, walk: Walk) -> None:
    login, password = f"demo-{secrets.token_hex(4)}", secrets.token_urlsafe(18)
    credentials = {"login": login, "password": password}
    async with _client(url) as client:
        await _step(client, walk, "GET", "/v1/me", 401, what="nobody is logged in")
        await _register(client, walk, config, credentials)
        answer = await _step(
            client, walk, "POST", "/v1/login_user", 200, what="log in", json=credentials
        )
        cookie = {"Cookie": _cookie(answer)}
        await _step(client, walk, "GET", "/v1/me", 200, what="logged in", headers=cookie)
        await _step(client, walk, "POST", "/v1/logout_user", 200, what="log out", headers=cookie)
        await _step(client, walk, "GET", "/v1/me", 401, what="logged out", headers=cookie)
    async with AsyncExitStack() as stack:
        again: dict[str, Any] = {"what": "the same token again", "headers": cookie}
        for worker, connection in sorted((await _each_worker(url, stack)).items()):
            await _step(connection, walk, "GET", "/v1/me", 401, worker=worker, **again)
            if (await _health(connection))[0] != worker:
                raise OperatorError(f"worker {worker} ended meanwhile; run the demo again")


async def _register(
    client: aiohttp.ClientSession, walk: Walk, config: Config, credentials: dict[str, str]
) -> None:
    """Register, or add the user as an operator does where registration is closed."""
    async with client.post("/v1/register_user", json=credentials) as answer:
        status = answer.status
    if status != 403:
        walk.take(Step("register", "POST", "/v1/register_user", 201, status))
        return
    walk.take(Step("registration is closed", "POST", "/v1/register_user", 403, status))
    await asyncio.to_thread(add_user, config, credentials["login"], credentials["password"])
    walk.note(f"     'user add {credentials['login']}', which needs no registration")


async def _step(
    client: aiohttp.ClientSession,
    walk: Walk,
    method: str,
    path: str,
    expected: int,
    *,
    what: str,
    worker: int | None = None,
    **request: Any,
) -> aiohttp.ClientResponse:
    async with client.request(method, path, **request) as answer:
        await answer.read()
    walk.take(Step(what, method, path, expected, answer.status, worker))
    return answer


def _cookie(answer: aiohttp.ClientResponse) -> str:
    """The session cookie, to be sent by hand: a client with a jar would forget it at the logout."""
    for line in answer.headers.getall("Set-Cookie", []):
        for name, morsel in SimpleCookie(line).items():
            if name in {SECURE_COOKIE, LOCAL_COOKIE}:
                return f"{name}={morsel.value}"
    return ""


# --- one connection to each worker


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with one keep-alive connection and no cookies of its own."""
    async with aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=1),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(REQUEST_TIMEOUT_S),
    ) as client:
        yield client


async def _each_worker(url: str, stack: AsyncExitStack) -> dict[int, aiohttp.ClientSession]:
    """A client for each worker, by process id. Raises OperatorError when one is not met."""
    met: dict[int, aiohttp.ClientSession] = {}
    tried, wanted, pause_s = 0, 1, 0.001
    while len(met) < wanted:
        if tried >= CONNECTIONS_PER_WORKER * wanted:
            raise OperatorError(f"met {len(met)} of {wanted} workers on {tried} connections")
        # several at a time: an idle worker takes what the others are too busy for
        clients = [await stack.enter_async_context(_client(url)) for _ in range(2 * wanted)]
        for worker, workers, client in await asyncio.gather(*map(_health, clients)):
            met.setdefault(worker, client)
            wanted = workers
        tried += len(clients)
        if len(met) < wanted:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LAST_PAUSE_S)
    return met


async def _health(client: aiohttp.ClientSession) -> tuple[int, int, aiohttp.ClientSession]:
    async with client.get("/health/alive") as answer:
        content = await answer.json()
    return content["worker"], content["workers"], client
