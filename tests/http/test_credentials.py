"""Where a token may come from: cookies, bearers, and what is no credential at all."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from gatelog.http.credentials import UnclearCredentials, has_session_cookie, read_token
from gatelog.sessions.rules.tokens import machine_token_from_random
from multidict import CIMultiDict

A, B = "A" * 43, "B" * 43
MACHINE = machine_token_from_random(bytes(range(32)))


def read(*headers: tuple[str, str]) -> str | None:
    """The token of a request from elsewhere: make_mocked_request's peer is no address."""
    return read_token(make_mocked_request("GET", "/", CIMultiDict([*headers])))


def cookie(line: str) -> tuple[str, str]:
    return "Cookie", line


def authorization(line: str) -> tuple[str, str]:
    return "Authorization", line


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([], None),
        ([cookie("")], None),
        ([cookie("other=1; more=2")], None),
        ([cookie(f"__Host-gatelog={A}")], A),
        ([cookie(f"other=1; __Host-gatelog={A}")], A),
        ([cookie(f"__Host-gatelog={A}; other=1")], A),
        # joined by whoever is in front
        ([cookie(f"other=1;__Host-gatelog={A}")], A),
        ([cookie(f"other=1;__Host-gatelog={A};more=2")], A),
        ([cookie(f"other=1; \t __Host-gatelog={A} ; more=2")], A),
        ([cookie("other=1"), cookie(f"__Host-gatelog={A}")], A),
        ([cookie(f"other=1 __Host-gatelog={A}")], None),
        ([cookie(f"other=__Host-gatelog={A}")], None),
        ([cookie(f"x__Host-gatelog={A}")], None),
        ([cookie(f"a;x__Host-gatelog={A}")], None),
        # the same twice is not unclear
        ([cookie(f"__Host-gatelog={A}; __Host-gatelog={A}")], A),
        ([cookie(f"__Host-gatelog={A};x=y;__Host-gatelog={A}; z=z")], A),
        ([cookie(f"__Host-gatelog={A}"), cookie(f"__Host-gatelog={A}")], A),
        ([cookie(f"a=b; __Host-gatelog={A}; c=__Host-gatelog={B}")], A),
        ([cookie("other=1"), cookie(f"__Host-gatelog={A}")], A),
        # another cookie whose name ends or begins with ours
        ([cookie(f"x__Host-gatelog={B}")], None),
        ([cookie(f"__Host-gatelogx={B}")], None),
        ([cookie(f"__host-gatelog={B}")], None),
        # the loopback name, from elsewhere: nobody looks at it, however often it comes
        ([cookie(f"gatelog={A}")], None),
        ([cookie(f"gatelog={B}; gatelog={B}; __Host-gatelog={A}")], A),
        # a quote: the library reads, and what stands between quotes is no cookie
        ([cookie(f'theme="x; __Host-gatelog={B}"; __Host-gatelog={A}')], A),
        ([cookie(f'theme="x; __Host-gatelog={B}"')], None),
        ([cookie(f'__Host-gatelog="{A}"')], A),
        # bearers
        ([authorization(f"Bearer {A}")], A),
        ([authorization(f"bEARER  {A}")], A),
        ([cookie(f"__Host-gatelog={A}"), authorization(f"Bearer {A}")], A),
        # of machines: nowhere else
        ([authorization(f"Bearer {MACHINE}")], MACHINE),
        ([authorization(f"bearer  {MACHINE} ")], MACHINE),
        ([cookie("other=1"), authorization(f"Bearer {MACHINE}")], MACHINE),
        # other schemes are somebody else's
        ([authorization("Basic YTpi")], None),
        ([authorization("")], None),
        ([cookie(f"__Host-gatelog={A}"), authorization("Basic YTpi")], A),
    ],
)
def test_the_token_of_a_request(headers: list[tuple[str, str]], token: str | None) -> None:
    assert read(*headers) == token


@pytest.mark.parametrize(
    "headers",
    [
        [cookie(f"__Host-gatelog={A}; __Host-gatelog={B}")],
        [cookie(f'x="y"; __Host-gatelog={A}; __Host-gatelog={B}')],
        [cookie(f'x="y"; __Host-gatelog={A}'), cookie("more=1")],
        [cookie("__Host-gatelog=")],
        [cookie("__Host-gatelog=short")],
        [cookie(f"__Host-gatelog={A}x")],
        [cookie(f"__Host-gatelog={A[:-1]}+")],
        [cookie(f"__Host-gatelog={A[:-1]}\xff")],
        [cookie(f"__Host-gatelog={A}"), authorization(f"Bearer {B}")],
        [cookie("__Host-gatelog=short"), authorization(f"Bearer {A}")],
        [cookie(f"__Host-gatelog={A}"), authorization("Bearer")],
        [authorization("Bearer")],
        [authorization("Bearer ")],
        [authorization("Bearer short")],
        [authorization(f"Bearer {MACHINE[:-1]}")],
        [authorization(f"Bearer {MACHINE}0")],
        [authorization(f"Bearer {MACHINE.swapcase()}")],
        [authorization(f"Bearer {MACHINE[:30]}{MACHINE[31:]}{MACHINE[30]}")],
        [authorization(f"Bearer {MACHINE}"), authorization(f"Bearer {MACHINE}")],
        [authorization("Basic YTpi"), authorization(f"Bearer {MACHINE}")],
        [cookie(f"__Host-gatelog={MACHINE}")],
        [cookie(f"__Host-gatelog={MACHINE}"), authorization(f"Bearer {MACHINE}")],
        [cookie(f"__Host-gatelog={A}"), authorization(f"Bearer {MACHINE}")],
        [cookie(f'x="y"; __Host-gatelog={MACHINE}')],
        [authorization(f"Bearer\t{A}")],
        [authorization(f"Bearer={A}")],
        [authorization(f"Bearer {A}, Bearer {A}")],
        [authorization(f"Bearer {A}"), authorization(f"Bearer {A}")],
        [authorization("Basic YTpi"), authorization(f"Bearer {A}")],
    ],
)
def test_what_is_no_credential(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(UnclearCredentials):
        read(*headers)


@pytest.mark.parametrize(
    ("line", "carried"),
    [
        ("other=1", False),
        (f"__Host-gatelog={A}", True),
        ("x=y; __Host-gatelog=broken", True),
        (f"gatelog={A}", True),
    ],
)
def test_whether_a_session_cookie_comes_along(line: str, carried: bool) -> None:
    request = make_mocked_request("GET", "/", CIMultiDict([cookie(line)]))
    assert has_session_cookie(request) is carried
