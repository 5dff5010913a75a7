"""The hosted example as it is started in earnest: ``GATELOG_APP``, and two workers."""

from __future__ import annotations

import hashlib
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.stack.conftest import two_workers
from tests.stack.service import REQUEST_TIMEOUT_S, ROOT

UPLOAD_BYTES = 50 * 1024 * 1024


def test_the_hosted_example_is_served(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with two_workers(data_dir, GATELOG_APP="examples.hosted.app:make_app") as service:
        assert service.request("GET", "/api/prices").json == {"apple": 1, "melon": 3}
        assert service.request("GET", "/api/files/hello.txt").status == 401
        service.register()
        cookie = service.log_in().cookie
        assert service.request("GET", "/api/files/hello.txt", cookie=cookie).status == 200
        assert service.request("POST", "/api/orders/apple", cookie=cookie).status == 200
        body = bytes(UPLOAD_BYTES)
        connection = HTTPConnection("127.0.0.1", service.port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request("PUT", "/api/upload", body, {"Cookie": cookie})
            answer = connection.getresponse()
            assert hashlib.sha256(body).hexdigest().encode() in answer.read()
        finally:
            connection.close()
