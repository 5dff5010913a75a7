"""What a request carries: its token, where it comes from through which proxies, what it prefers."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from gatelog.config import Config
from gatelog.http.caller import MAX_CLIENT_TEXT, caller_of, client, client_address
from gatelog.http.settings import CONFIG
from gatelog.sessions.rules.tokens import token_digest
from gatelog.settings import parse_networks
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

TRUSTED = parse_networks("10.0.0.0/8,fd00::/8")
PROXY, CLIENT, LIAR = "10.0.0.1", "192.0.2.7", "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (CLIENT, [], CLIENT),
        # nobody believes a client that no proxy vouches for
        (CLIENT, [LIAR], CLIENT),
        (PROXY, [], PROXY),
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{LIAR}, {CLIENT}"], CLIENT),
        (PROXY, [LIAR, CLIENT], CLIENT),
        (PROXY, [f"{LIAR}, {CLIENT}, 10.0.0.2"], CLIENT),
        (PROXY, [f"{LIAR}, {CLIENT}", "10.0.0.2"], CLIENT),
        # trusted all the way: the client is inside
        (PROXY, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # spellings
        (PROXY, [f"{CLIENT}:4711"], CLIENT),
        (PROXY, ["[2001:db8::1]:4711"], "2001:db8::1"),
        (PROXY, ['"[2001:db8::1]"'], "2001:db8::1"),
        (PROXY, ["2001:db8::1"], "2001:db8::1"),
        (PROXY, [f"::ffff:{CLIENT}"], CLIENT),
        (f"::ffff:{PROXY}", [CLIENT], CLIENT),
        ("fd00::1", [CLIENT], CLIENT),
        # what is no address ends the walk
        (PROXY, ["unknown"], PROXY),
        (PROXY, [f"{LIAR}, _hidden, 10.0.0.2"], "10.0.0.2"),
        (PROXY, [""], PROXY),
        (PROXY, [f"{CLIENT},"], PROXY),
        (PROXY, ["[", f"{CLIENT}:"], CLIENT),
        ("", [CLIENT], ""),
        (None, [CLIENT], None),
    ],
)
def test_the_walk(peer: str | None, forwarded: list[str], address: str | None) -> None:
    assert client_address(peer, forwarded, TRUSTED) == address


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert client_address(PROXY, [LIAR], ()) == PROXY


def test_the_walk_is_bounded() -> None:
    hops = ", ".join([CLIENT, *["10.0.0.2"] * 100])
    assert client_address(PROXY, [hops], TRUSTED) == "10.0.0.2"


@given(st.lists(st.text(st.sampled_from('0123456789.:[], "x'), max_size=40), max_size=4))
def test_no_header_is_an_error(forwarded: list[str]) -> None:
    """Whatever a client writes to the left, what the proxy adds is what counts."""
    assert client_address(PROXY, [*forwarded, CLIENT], TRUSTED) == CLIENT
    client_address(PROXY, forwarded, TRUSTED)


def test_a_client_is_bounded_and_storable() -> None:
    long = client("x" * 1000, "y" * 1000)
    assert (len(long.address or ""), len(long.agent or "")) == (MAX_CLIENT_TEXT,) * 2
    assert client("", None) == client(None, "")
    surrogate = client(None, "a\udcffb")
    assert surrogate.agent == "a?b"
    assert surrogate.agent.encode()


TOKEN = "A" * 43
COOKIE = ("Cookie", f"__Host-gatelog={TOKEN}")
OTHER = ("Authorization", "Bearer " + "B" * 43)


def request(*headers: tuple[str, str]) -> web.Request:
    app = web.Application()
    app[CONFIG] = Config()
    return make_mocked_request("GET", "/", CIMultiDict([*headers]), app=app)


def test_what_a_request_carries_is_one_value() -> None:
    headers = [COOKIE, ("User-Agent", "browser"), ("Prefer", "receipt")]
    caller = caller_of(request(*headers))
    assert caller.digest == token_digest(TOKEN)
    assert caller.client.agent == "browser"
    assert (caller.by_cookie, caller.local, caller.unclear) == (True, False, False)
    assert caller.wants_receipt


def test_who_carries_nothing() -> None:
    caller = caller_of(request())
    assert (caller.digest, caller.client.agent) == (None, None)
    assert not (caller.by_cookie or caller.unclear or caller.wants_receipt)


def test_what_is_unclear_is_no_token_and_no_error() -> None:
    caller = caller_of(request(COOKIE, OTHER))
    assert (caller.digest, caller.unclear, caller.by_cookie) == (None, True, True)


def test_it_is_read_once() -> None:
    once = request(COOKIE)
    assert caller_of(once) is caller_of(once)
