"""``python -m tests.bench.composed``: what a composed endpoint costs beside a handler by hand.

One server process with one core to itself: a hosted handler, and composed endpoints that answer the
same, of a build with ten endpoints and of one with a thousand. They are asked in turn, in short
rounds, and each is compared with the handler's round of the same turn. ``--quick`` only shows that
it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from gatelog import SESSION
from gatelog.composer.rules.composition import Composition, Respond
from gatelog.config import Config
from gatelog.hosting.app import create_app, make_runner
from gatelog.hosting.services import open_services
from gatelog.testing.clients import config_for_tests
from gatelog.testing.postgres import make_database, template_postgres
from rich.console import Console

from tests.bench.checks import Plan, Rounds, one_round
from tests.bench.machine import (
    ServerProcess,
    make_table,
    server_process,
    split_cores,
    spread,
)
from tests.composer.compositions import both, one

FEW, MANY = 10, 1_000
MOST = 1.15  # of the CPU time by hand
TEMPLATE = '{"user": "{{session.user_id}}", "id": "{{path.id}}"}'
FULL = Plan(pairs=24)
QUICK = Plan(pairs=2, round_s=0.15, warm_up_s=0.05, connections=8)
LOGIN, PASSWORD = "ada", "a phrase for the benchmark"
_encode = msgspec.json.Encoder().encode


async def by_hand(request: web.Request) -> web.Response:
    """What the composed endpoints answer."""
    content = {"user": request[SESSION].subject_text, "id": request.match_info["id"]}
    return web.Response(body=_encode(content), content_type="application/json")


def endpoints(count: int) -> Composition:
    """So many of them, each with a path of its own."""
    answer = Respond(json=TEMPLATE)
    return both(*(one(answer, name=f"E{n}", path=f"/v2/e{n}/{{id}}") for n in range(count)))


async def serve(config: Config) -> None:
    """The contestant: prints its port, and serves until SIGTERM."""
    app = create_app(config, config.database_url, [web.get("/hand/{id}", by_hand)], projector=True)
    runner = make_runner(app, config)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await runner.cleanup()


async def measure(console: Console, server: ServerProcess, config: Config, plan: Plan) -> None:
    """Build, ask, and print; raises AssertionError where an answer is not the same."""
    base = f"http://127.0.0.1:{server.port}"
    body = {"login": LOGIN, "password": PASSWORD, "token": "bearer"}
    async with (
        open_services(config, config.database_url) as services,
        aiohttp.ClientSession() as client,
    ):
        await services.accounts.logins.add_user(LOGIN, PASSWORD)
        async with client.post(f"{base}/v1/login_user", json=body) as answer:
            token = (await answer.json())["token"]
        measured: Rounds = {}
        for count in (FEW, MANY):
            await services.composing.composer.replace(endpoints(count))
            await services.composing.composer.build()
            targets = {f"by hand, beside {count}": "/hand/7", f"of {count}": f"/v2/e{count - 1}/7"}
            said = [await _said(client, base + path, token) for path in targets.values()]
            assert said[0] == said[1], said
            for number in range(plan.pairs):
                for title, path in list(targets.items())[:: 1 if number % 2 == 0 else -1]:
                    found = await one_round(server, _asking(path, token), plan)
                    measured.setdefault(title, []).append(found)
    _show(console, measured, plan)


async def _said(client: aiohttp.ClientSession, url: str, token: str) -> bytes:
    async with client.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


def _asking(path: str, token: str) -> Iterator[bytes]:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    return itertools.repeat(head.encode())


def _show(console: Console, measured: Rounds, plan: Plan) -> None:
    table = make_table(
        f"A composed endpoint and the same handler by hand: {plan.pairs} rounds of {plan.round_s} s"
        " each; medians (quartiles)",
        "what is asked",
        "req/s",
        "CPU, µs",
        "of by hand, CPU",
        f"goal ≤ {MOST}",
    )
    for count in (FEW, MANY):
        hand, composed = measured[f"by hand, beside {count}"], measured[f"of {count}"]
        shares = [b.cpu_us / a.cpu_us for a, b in zip(hand, composed, strict=True)]
        for title, rounds in ((f"by hand, beside {count}", hand), (f"of {count}", composed)):
            mine = rounds is composed
            table.add_row(
                title,
                spread([each.per_second for each in rounds], ",.0f"),
                spread([each.cpu_us for each in rounds], ".1f"),
                spread(shares, ".3f") if mine else "",
                ("yes" if statistics.median(shares) <= MOST else "NO") if mine else "",
            )
    console.print(table)


def run(console: Console, plan: Plan) -> None:
    """All of it, on a database of its own."""
    cores = split_cores()
    directory = tempfile.mkdtemp(prefix="gatelog-bench-")
    try:
        with template_postgres() as postgres:
            name, urls = make_database(postgres)
            config = msgspec.structs.replace(
                config_for_tests(f"{directory}/own", urls.app), check="replica", lease_ttl_s=3
            )
            served = msgspec.structs.replace(config, data_dir=f"{directory}/server")
            arguments = ["serve", msgspec.json.encode(served).decode()]
            with server_process("tests.bench.composed", arguments, cores.server) as server:
                os.sched_setaffinity(0, cores.others)
                uvloop.run(measure(console, server, config, plan))
            postgres.drop_database(name)
    finally:
        os.sched_setaffinity(0, cores.all)
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(msgspec.json.decode(sys.argv[2], type=Config)))
        return
    parser = argparse.ArgumentParser(prog="python -m tests.bench.composed")
    parser.add_argument("--quick", action="store_true", help="see that it runs; not to measure")
    quick = parser.parse_args().quick
    run(Console(width=None if Console().is_terminal else 130), QUICK if quick else FULL)


if __name__ == "__main__":
    main()
