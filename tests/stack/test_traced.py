"""A line of the log about a request names the trace of who sent it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.stack.service import serving


def test_a_served_request_is_in_its_callers_trace(tmp_path: Path) -> None:
    settings = {"GATELOG_ACCESS_LOG": "true", "GATELOG_LOG_FORMAT": "json", "GATELOG_WORKERS": "1"}
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    with serving(tmp_path / "var", **settings) as service:
        assert service.request("GET", "/v1/me?x=1", headers=headers).status == 401
        service.wait_until_logged("GET /v1/me 401")
        lines = [json.loads(line) for line in service.logged.splitlines() if line.startswith("{")]
    (line,) = (line for line in lines if "GET /v1/me 401" in line["message"])
    assert line["trace_id"] == trace
    others = [line for line in lines if line["logger"] != "gatelog.access"]
    assert others
    assert not any("trace_id" in line for line in others)
