"""A service that is told where, sends its spans there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.stack.service import serving
from tests.waiting import eventually

WITHIN_S = 60.0
TRACE = "0af7651916cd43dd8448eb211c80319c"

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra is not installed")


@contextmanager
def collector() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """Takes what is sent to it: the port, and path and body of each request."""
    taken: list[tuple[str, bytes]] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Taking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, taken
        finally:
            server.shutdown()
            thread.join()


def test_spans_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (port, taken):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with serving(tmp_path / "var", GATELOG_WORKERS="1") as service:
            headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            assert service.request("GET", "/v1/me", headers=headers).status == 401

            def arrived() -> bool:
                return any(bytes.fromhex(TRACE) in body for _, body in list(taken))

            eventually(arrived, WITHIN_S, "the span")
        path, body = next(one for one in taken if bytes.fromhex(TRACE) in one[1])
    assert path == "/v1/traces"
    assert b"GET /v1/me" in body
    assert b"gatelog" in body
