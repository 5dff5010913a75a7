"""The setup code, as whoever starts the service finds it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

from tests.stack.service import PASSWORD, Service, serving

CODE = re.compile(r"setup code ([a-z2-7]{6}(?:-[a-z2-7]{6}){3})$", re.M)
ELSEWHERE = {"X-Forwarded-For": "192.0.2.1", "Accept": "text/html"}


def make_first(service: Service, code: str) -> int:
    """What is answered to who asks for the first account from elsewhere, with this code."""
    body = urlencode({"login": "ada", "password": PASSWORD, "code": code})
    headers = ELSEWHERE | {"Content-Type": "application/x-www-form-urlencoded"}
    return service.request("POST", "/first", headers=headers, text=body).status


def test_it_is_logged_until_there_is_a_user(tmp_path: Path) -> None:
    with serving(tmp_path / "var") as service:
        (code,) = CODE.findall(service.logged)
        assert make_first(service, "wrong") == 403
        assert make_first(service, code) == 303
        me = service.request("GET", "/v1/me", cookie=service.log_in("ada").cookie)
        assert me.json["roles"] == ["admin"]
    with serving(tmp_path / "var") as service:
        assert "setup code" not in service.logged


def test_without_pages_there_is_none(tmp_path: Path) -> None:
    with serving(tmp_path / "var", GATELOG_PAGES="off") as service:
        assert "setup code" not in service.logged
        assert service.request("GET", "/", headers={"Accept": "text/html"}).status == 404
