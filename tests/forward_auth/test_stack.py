"""The nginx of the Compose stack, with its own files: to the login page where there is one.

The stack itself is tried in tests/compose, which needs a Docker engine. Here the same files are
read by an nginx of this machine; only names of other containers, the port and the paths inside of
nginx's own are replaced.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
import msgspec
from gatelog.config import Config
from gatelog.hosting.app import create_app

from tests.conftest import Dsns
from tests.forward_auth.proxies import Front, upstream
from tests.forward_auth.test_proxies import enter, seen
from tests.serving import serving
from tests.waiting import free_port, until

FILES = Path(__file__).parents[2] / "docker" / "nginx"
NAVIGATING = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html", "Host": "app.example"}


def own_files(directory: Path, replaced: dict[str, str]) -> Path:
    """A copy of nginx's files with these texts replaced, each of which must be there."""
    copied = directory / "gatelog"
    shutil.copytree(FILES, copied)
    left = set(replaced)
    for file in copied.rglob("*.conf"):
        text = file.read_text()
        for old, new in replaced.items():
            left -= {old} if old in text else set()
            text = text.replace(old, new)
        file.write_text(text)
    assert not left
    return copied / "nginx.conf"


@asynccontextmanager
async def stack(config: Config, database: Dsns, directory: Path) -> AsyncIterator[Front]:
    config = msgspec.structs.replace(config, trusted_proxies="127.0.0.1")
    port, example = free_port(), free_port()
    async with serving(create_app(config, database.app), config) as service, upstream(example):
        replaced = {  # in this order: the directory may be below /tmp itself
            "/tmp/": f"{directory}/",  # noqa: S108
            "http://api:8080": f"http://127.0.0.1:{service.port}",
            "http://example:8080": f"http://127.0.0.1:{example}",
            "listen 8080;": f"listen 127.0.0.1:{port};",
            "/etc/gatelog/": f"{directory}/gatelog/",
        }
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
        assert program, "install nginx (apt-get install nginx-light): it is tried for real here"
        words = "daemon off;" + ("user root;" if os.geteuid() == 0 else "")
        file = str(own_files(directory, replaced))
        process = subprocess.Popen(  # noqa: ASYNC220
            [program, "-e", "stderr", "-p", str(directory), "-c", file, "-g", words]
        )
        front = Front(service, port)

        async def answers() -> bool:
            assert process.poll() is None
            try:
                return (await front.get("/v1/me")).status == 401
            except aiohttp.ClientError:
                return False

        try:
            await until(answers)
            yield front
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 20)


async def test_nobody_is_sent_anywhere_by_default(
    config: Config, database: Dsns, tmp_path: Path
) -> None:
    async with stack(config, database, tmp_path) as front:
        for headers in (NAVIGATING, {}):
            answer = await front.get("/example/", headers=headers)
            assert (answer.status, "Location" in answer.headers) == (401, False)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        cookie = await enter(front)
        spoofed = {"X-Gatelog-User": "mallory", "X-Gatelog-Identity": "mallory"}
        told = seen(await front.get("/example/", headers=cookie | spoofed))
        me = (await front.get("/v1/me", headers=cookie)).json
        assert [value for name, value in told if name == "x-gatelog-user"] == [me["user_id"]]
        assert not [name for name, value in told if value == "mallory" or name == "cookie"]
        assert (await front.get("/v1/auth", headers=cookie)).status == 404


async def test_a_browser_is_sent_to_the_login_page(
    config: Config, database: Dsns, tmp_path: Path
) -> None:
    login = "https://app.example/login"
    config = msgspec.structs.replace(config, login_url=login, return_hosts="app.example")
    async with stack(config, database, tmp_path) as front:
        forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Uri": "/forged"}
        answer = await front.get("/example/?a=b", headers=NAVIGATING | forged)
        back = quote("http://app.example/example/?a=b", safe="")
        assert (answer.status, answer.headers["Location"]) == (303, f"{login}?return_to={back}")
        for headers in ({}, {"Sec-Fetch-Mode": "cors", "Accept": "text/html"}):
            assert (await front.get("/example/", headers=headers)).status == 401
        page = await front.get("/login?return_to=x")
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        cookie = await enter(front)
        assert (await front.get("/example/", headers=NAVIGATING | cookie)).status == 200
        await front.runner.cleanup()
        assert (await front.get("/example/", headers=NAVIGATING | cookie)).status == 503


def test_the_switch_reaches_the_service() -> None:
    compose = (FILES.parent / "compose.yaml").read_text()
    for name in ("GATELOG_LOGIN_URL", "GATELOG_RETURN_HOSTS"):
        assert re.search(rf"^      {name}: \${{{name}:-}}$", compose, re.M)
