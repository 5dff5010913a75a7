"""Any worker tells what all of them have counted, and how things stand in those that live."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.stack.service import REQUEST_TIMEOUT_S, Service, serving
from tests.waiting import eventually

ASKED = 40
WITHIN_S = 30.0  # a worker tells a second later, on a quiet machine


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "var", GATELOG_WORKERS="2") as running:
        yield running


class Kept:
    """A connection that stays, and with it the worker."""

    def __init__(self, service: Service) -> None:
        self._connection = HTTPConnection("127.0.0.1", service.port, timeout=REQUEST_TIMEOUT_S)
        self.worker = int(json.loads(self.get("/health/alive"))["worker"])

    def get(self, path: str, cookie: str = "") -> bytes:
        self._connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body

    def value(self, name: str) -> float:
        """The value of this one metric, with its labels in its name; 0 where there is none."""
        line = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").decode(), re.MULTILINE)
        return float(line[1]) if line else 0.0

    def close(self) -> None:
        self._connection.close()


def one_of_each(service: Service) -> list[Kept]:
    """A connection to each of the two workers."""
    found: dict[int, Kept] = {}

    def both() -> bool:
        kept = Kept(service)
        if found.setdefault(kept.worker, kept) is not kept:
            kept.close()
        return len(found) == 2

    eventually(both, WITHIN_S, "both workers answer")
    return list(found.values())


CHECKS = "gatelog_replica_checks_total"
ME = 'gatelog_http_request_duration_seconds_count{method="GET",route="/v1/me",status="200"}'


def test_the_sum_of_two_workers(service: Service) -> None:
    service.register()
    cookie = service.log_in().cookie
    workers = one_of_each(service)
    one, other = workers
    before, checks = one.value(ME), one.value(CHECKS)
    for kept in workers:
        for _ in range(ASKED):
            assert b"user_id" in kept.get("/v1/me", cookie)
    eventually(lambda: one.value(ME) == before + 2 * ASKED, WITHIN_S, "the sum of requests")
    assert other.value(ME) == one.value(ME)
    eventually(lambda: one.value(CHECKS) >= checks + 2 * ASKED, WITHIN_S, "the sum of checks")

    connections = one.value("gatelog_connections")
    assert connections >= 2
    counted = one.value(ME)
    (worker,) = (process for process in service.workers() if process.pid == other.worker)
    worker.send_signal(signal.SIGKILL)
    worker.wait(WITHIN_S)
    eventually(
        lambda: one.value("gatelog_connections") < connections, WITHIN_S, "its connections gone"
    )
    assert one.value(ME) == counted, "what it counted stays"
    for kept in workers:
        kept.close()
