"""The client's address, with and without proxies in front."""

from __future__ import annotations

import pytest
from gatelog.config import parse_networks
from gatelog.http.clients import client_address
from hypothesis import given
from hypothesis import strategies as st

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
