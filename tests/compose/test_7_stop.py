"""A container that is stopped in the middle of its work is gone in time, and nobody notices."""

from __future__ import annotations

import asyncio
import logging
import time

import aiohttp
import pytest

from tests.compose.load import FrontLoad
from tests.compose.stack import Stack, docker
from tests.compose.test_1_up import STOP_WITHIN_S
from tests.stack.service import PASSWORD

logger = logging.getLogger(__name__)

CLIENTS = 4
STREAM = "/v1/audit/events/stream"
NO_LIMIT = aiohttp.ClientTimeout(total=None)  # a stream lasts; the test has a limit


async def auditors_token(stack: Stack, http: aiohttp.ClientSession, login: str) -> str:
    """Add an auditor, as an operator does, and log in; returns the token."""
    add = ("gatelog", "user", "add", login, "--role", "auditor", "--password-file", "-")
    container = stack.containers("api")[0]
    await asyncio.to_thread(docker, "exec", "--interactive", container.id, *add, input=PASSWORD)
    body = {"login": login, "password": PASSWORD, "token": "bearer"}
    async with http.post(f"{stack.url}/v1/login_user", json=body) as answer:
        assert answer.status == 200
        token: str = (await answer.json())["token"]
        return token


async def end_of(answer: aiohttp.ClientResponse) -> float:
    """Read a stream to its end; returns when that was."""
    async for _ in answer.content.iter_any():
        pass
    return time.monotonic()


@pytest.mark.timeout(600)
async def test_stopped_under_load_with_a_stream_open(stack: Stack) -> None:
    victim = stack.containers("api")[0]
    origin = f"http://{victim.address('_backend')}:8080"
    load = FrontLoad(stack)
    async with load.running(CLIENTS), aiohttp.ClientSession(timeout=NO_LIMIT) as http:
        token = await auditors_token(stack, http, "streaming-auditor")
        headers = {"Authorization": f"Bearer {token}"}
        async with http.get(origin + STREAM, headers=headers) as stream:
            assert stream.status == 200
            await load.grows()
            while not (await stream.content.readline()).startswith(b"data:"):
                assert not stream.content.at_eof()
            ending = asyncio.create_task(end_of(stream))
            started = time.monotonic()
            await asyncio.to_thread(docker, "stop", "--time", "30", victim.id)
            took_s = time.monotonic() - started
            logger.info("stream ended after %.1f s, all %.1f s", await ending - started, took_s)
        assert victim.state["ExitCode"] == 0, victim.logs()
        assert took_s < STOP_WITHIN_S
        await load.grows()
        docker("start", victim.id)
        await asyncio.to_thread(stack.wait_until_healthy, "api")
        await load.grows()

    logger.info("%s", dict(load.answers))
    load.assert_nothing_failed()
