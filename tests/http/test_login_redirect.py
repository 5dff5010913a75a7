"""A browser without a session is sent to log in, and back; nobody else, and nowhere else."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config, load_config
from gatelog.errors import ConfigError
from gatelog.hosting.app import create_app
from gatelog.http.login_redirect import checked_address

from tests.conftest import Dsns
from tests.serving import PASSWORD, serving

LOGIN = "https://login.example/in"
HOSTS = frozenset({"app.example", "app.example:8443"})
FROM_APP = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "app.example",
    "X-Forwarded-Uri": "/orders?a=1&b=2",
}
NAVIGATION = {"Sec-Fetch-Mode": "navigate"}


@pytest.mark.parametrize("path", ["/", "/a?b=//c", "/a%5Cb", "/a?x=http://evil.example/"])
def test_what_may_be_returned_to(path: str) -> None:
    assert checked_address(HOSTS, "https", "APP.example", path) == f"https://app.example{path}"


@pytest.mark.parametrize(
    ("scheme", "host", "path"),
    [
        ("https", "evil.example", "/"),
        ("https", "app.example.evil.example", "/"),
        ("https", "app.example@evil.example", "/"),
        ("https", "evil.example\\.app.example", "/"),
        ("https", "app.example, evil.example", "/"),
        ("https", "app.example:444", "/"),
        ("https", "", "/"),
        ("javascript", "app.example", "/"),
        ("HTTPS", "app.example", "/"),
        ("https", "app.example", ""),
        ("https", "app.example", ".evil.example/"),
        ("https", "app.example", "@evil.example/"),
        ("https", "app.example", "//evil.example/"),
        ("https", "app.example", "/\\evil.example/"),
        ("https", "app.example", "/a\\b"),
        ("https", "app.example", "/a\tb"),
        ("https", "app.example", "/a\n"),
        ("https", "app.example", "/a b"),
        ("https", "app.example", "/\u00e9"),
        ("https", "app.example", "/" + "a" * 2048),
    ],
)
def test_what_may_not(scheme: str, host: str, path: str) -> None:
    assert checked_address(HOSTS, scheme, host, path) is None


@pytest.mark.parametrize(
    "environ",
    [
        {"GATELOG_LOGIN_URL": "/in"},
        {"GATELOG_LOGIN_URL": "javascript:alert(1)"},
        {"GATELOG_LOGIN_URL": "https://a@login.example/"},
        {"GATELOG_LOGIN_URL": "https://login.example/#in"},
        {"GATELOG_LOGIN_URL": "https://login.example/\r\nX: y"},
        {"GATELOG_RETURN_HOSTS": "*"},
        {"GATELOG_RETURN_HOSTS": "https://app.example"},
        {"GATELOG_RETURN_HOSTS": "App.example"},
    ],
)
def test_settings_that_are_not_usable(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(environ))):
        load_config(environ)


async def test_navigations_and_nobody_else(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(
        config, login_url=LOGIN, return_hosts="app.example", trusted_proxies="127.0.0.1/32"
    )
    app = create_app(config, database.app)
    async with serving(app, config) as service:
        await app[ACCOUNTS].logins.add_user("ada", PASSWORD, ())
        token = await service.token("ada")
        for headers in ({}, {"Accept": "*/*"}, {"Sec-Fetch-Mode": "cors", "Accept": "text/html"}):
            answer = await service.get("/v1/auth", headers=FROM_APP | headers)
            assert (answer.status, answer.code) == (401, "not_authenticated")
            assert "X-Gatelog-Login" not in answer.headers
        for headers in (NAVIGATION, {"Accept": "text/html,*/*;q=0.8"}):
            answer = await service.get("/v1/auth", headers=FROM_APP | headers)
            assert answer.status == 303
            where = urlsplit(answer.headers["Location"])
            assert where._replace(query="").geturl() == LOGIN
            assert parse_qs(where.query) == {"return_to": ["https://app.example/orders?a=1&b=2"]}
            told = await service.get("/v1/auth?login=header", headers=FROM_APP | headers)
            assert (told.status, told.code) == (401, "not_authenticated")
            assert told.headers["X-Gatelog-Login"] == answer.headers["Location"]
        for foreign in ({"X-Forwarded-Host": "evil.example"}, {"X-Forwarded-Method": "POST"}):
            answer = await service.get("/v1/auth", headers=FROM_APP | NAVIGATION | foreign)
            assert (answer.status, answer.headers["Location"]) == (303, LOGIN)
        lacks = await service.get("/v1/auth?role=admin", cookie=token, headers=NAVIGATION)
        assert (lacks.status, lacks.code) == (403, "forbidden")
        for query in ("login=x", "login=", "login=header&login=header"):
            answer = await service.get(f"/v1/auth?{query}", cookie=token, headers=NAVIGATION)
            assert answer.status == 422


async def test_only_a_trusted_proxy_says_where_to_return(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, login_url=LOGIN, return_hosts="app.example")
    async with serving(create_app(config, database.app), config) as service:
        answer = await service.get("/v1/auth", headers=FROM_APP | NAVIGATION)
        assert (answer.status, answer.headers["Location"]) == (303, LOGIN)
