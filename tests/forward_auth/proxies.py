"""The proxies of docs/forward-auth.md, configured as it prints, before an upstream that echoes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.serving import Service
from tests.waiting import free_port, until

PAGE = Path(__file__).parents[2] / "docs" / "forward-auth.md"
PROXIES = ("nginx", "caddy", "haproxy", "envoy")
TLS = "TLS, for browsers"
ROLE = "only who has a role"
SIGNED = "a [signed identity](#signed-identity)"
APP_HOST = "app.example"


def printed(language: str) -> str:
    """What the document prints in this language."""
    block, *others = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert not others or language == "yaml"  # Envoy's is before Traefik's
    return str(block)


def changes(name: str, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """What the document's table says to change in this proxy's configuration for these aims."""
    found, aim = [], ""
    for stated, proxy, old, new in re.findall(
        r"^\| ?(.*?) ?\| (\w+) \| `(.*)` \| `(.*)` \|$", PAGE.read_text(), re.M
    ):
        aim = stated.partition(":")[0] or aim
        if aim in wanted and proxy.lower() == name:
            found.append((old, new))
    assert len(found) == len(wanted), (name, wanted)
    return found


class Front(Service):
    """Gatelog behind the proxy: all requests go to the proxy, over plain HTTP."""

    def __init__(self, behind: Service, port: int) -> None:
        super().__init__(behind.runner, behind._client)
        self.port = port


def _command(name: str, directory: Path, ports: dict[str, int], wanted: Sequence[str]) -> list[str]:
    """Write what the document prints, with free ports, and say how it is started."""
    left = changes(name, wanted)

    def write(file: str, language: str) -> str:
        text = printed(language)
        for change in list(left):
            if change[0] in text:
                assert text.count(change[0]) == 1, change
                text = text.replace(*change)
                left.remove(change)
        for port, free in ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        (directory / file).write_text(text)
        return str(directory / file)

    path = f"{sysconfig.get_path('scripts')}:/usr/sbin:/usr/bin"  # Envoy comes as a package
    program = shutil.which(name, path=path)
    assert program, f"install {name} (apt-get install {name}): it is tried for real here"
    if name == "nginx":
        (directory / "logs").mkdir()
        words = f"daemon off; pid {directory}/pid; error_log stderr;"
        words += "user root;" if os.geteuid() == 0 else ""  # a test's files are its user's alone
        line = [program, "-p", str(directory), "-c", write("nginx.conf", "nginx"), "-g", words]
    elif name == "caddy":
        file = write("Caddyfile", "caddyfile")
        line = [program, "run", "--adapter", "caddyfile", "--config", file]
    elif name == "envoy":
        alone = ["--disable-hot-restart", "--concurrency", "1"]  # it shares nothing with others
        line = [program, "-c", write("envoy.yaml", "yaml"), "--log-level", "warning", *alone]
    else:
        write("gatelog.lua", "lua")
        line = [program, "-db", "-C", str(directory), "-f", write("haproxy.cfg", "haproxy")]
    assert not left, f"nothing to change: {left}"
    return line


async def _echo(request: web.Request) -> web.Response:
    return web.json_response([[n.decode(), v.decode()] for n, v in request.raw_headers])


@asynccontextmanager
async def upstream(port: int) -> AsyncIterator[None]:
    """An API that answers everything with the headers that reached it."""
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", _echo)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def proxied(
    name: str, service: Service, directory: Path, wanted: Sequence[str] = (), port: int = 0
) -> AsyncIterator[Front]:
    """This proxy before the service and an upstream, changed for what is ``wanted`` of the table.

    ``port``: where it listens; 0 takes a free one.
    """
    ports = {"8000": port or free_port(), "8080": service.port, "9000": free_port()}
    if TLS in wanted:
        write_certificate(directory)
    line = _command(name, directory, ports, wanted)
    url = f"{'https' if TLS in wanted else 'http'}://127.0.0.1:{ports['8000']}/v1/me"

    async def answers() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            async with service._client.get(url, ssl=False) as response:
                return response.status == 401
        except aiohttp.ClientError:
            return False

    async with upstream(ports["9000"]):
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220
                line, cwd=directory, stdout=log, stderr=log, env={"HOME": str(directory)}
            )
        try:
            await until(answers)
            yield Front(service, ports["8000"])
        finally:  # before those that it would connect to again
            process.terminate()
            await asyncio.to_thread(process.wait, 20)


def write_certificate(directory: Path) -> None:
    """A certificate of our own, and its key, in the files that the document names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, APP_HOST)])
    start = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(APP_HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    public, private = certificate.public_bytes(pem), key.private_bytes(pem, form, plain)
    for file, text in (("cert.pem", public), ("key.pem", private), ("both.pem", public + private)):
        (directory / file).write_bytes(text)
