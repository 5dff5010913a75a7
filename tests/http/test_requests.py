"""What is counted of requests, and that Prometheus' own tools take all of it."""

from __future__ import annotations

import re
import shutil
import subprocess

from tests.serving import Service


def _lines(body: bytes, name: str) -> list[str]:
    return [line for line in body.decode().splitlines() if line.startswith(name)]


def _total(body: bytes, labels: str) -> float:
    prefix = f"gatelog_http_request_duration_seconds_count{{{labels}}}"
    return sum(float(line.split()[-1]) for line in _lines(body, prefix))


async def test_requests_are_counted_by_template_and_status(alice: Service) -> None:
    labels = 'method="GET",route="/v1/me",status="401"'
    before = _total((await alice.get("/metrics")).body, labels)
    for _ in range(3):
        await alice.get("/v1/me")
    await alice.get("/v1/me?x=1")
    await alice.get("/v1/%6de")  # not the shortcut
    after = (await alice.get("/metrics")).body
    assert _total(after, labels) - before == 5
    buckets = 'gatelog_http_request_duration_seconds_bucket{le="+Inf",' + labels
    (infinite,) = _lines(after, buckets)
    assert float(infinite.split()[-1]) == _total(after, labels)


async def test_a_route_for_all_methods_counts_each(alice: Service) -> None:
    token = await alice.token()
    for method in ("GET", "POST", "PURGE", "GET"):
        labels = (
            f'method="{"other" if method == "PURGE" else method}",route="/v1/auth",status="200"'
        )
        before = _total((await alice.get("/metrics")).body, labels)
        assert (await alice.send(method, "/v1/auth?x", cookie=token)).status == 422
        assert (await alice.send(method, "/v1/auth?", cookie=token)).status == 200
        assert _total((await alice.get("/metrics")).body, labels) - before == 1, method


async def test_no_client_makes_labels(alice: Service) -> None:
    before = len(_lines((await alice.get("/metrics")).body, "gatelog_http_request"))
    for number in range(20):
        await alice.send(f"ODD{number}", f"/nowhere/{number}")
        await alice.get(f"/v1/sessions/{number}/{number}")
    body = (await alice.get("/metrics")).body
    assert b"nowhere" not in body
    assert b"ODD" not in body
    assert 'route="unmatched"' in body.decode()
    kinds = len(_lines(body, "gatelog_http_request")) - before
    assert kinds < 8 * 20


async def test_promtool_finds_nothing(alice: Service) -> None:
    await alice.post("/v1/logout_user", cookie=await alice.token())
    body = (await alice.get("/metrics")).body
    for name in ("events_total{", "append_batch_events_bucket", "password_hashing_seconds_count"):
        assert _lines(body, f"gatelog_{name}"), name
    position = float(_lines(body, "gatelog_log_position ")[0].split()[-1])
    assert position > 0
    assert re.search(rb"^gatelog_lease_valid [01]\.0$", body, re.MULTILINE)
    promtool = shutil.which("promtool")
    assert promtool, "Debian's package prometheus has it"
    own = b"".join(
        line + b"\n"
        for line in body.splitlines()
        if line.startswith((b"gatelog_", b"# HELP gatelog_", b"# TYPE gatelog_"))
    )
    checked = subprocess.run(  # noqa: ASYNC221
        [promtool, "check", "metrics"], input=own, capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
