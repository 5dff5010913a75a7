"""Where a request comes from: the client's address, through proxies that are known, and its agent.

Rules:

- The address is that of the connection's peer. Only when the peer is a trusted proxy, the last
  entry of ``X-Forwarded-For`` is believed, and so on from right to left as long as each entry is a
  trusted proxy itself: anything further left may have been written by the client.
- What is no address ends the walk; the last one that was believed counts.
- Both texts are bounded. They are personal: they go nowhere but into sealed fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import hdrs, web

from gatelog.config import Network
from gatelog.privacy.rules import Client, client

MAX_HOPS = 32


def client_of(request: web.Request, trusted: Iterable[Network]) -> Client:
    """The client behind the request, as far as it is known."""
    lines = request.headers.getall(hdrs.X_FORWARDED_FOR, ())
    address = client_address(request.remote, lines, trusted)
    return client(address, request.headers.get(hdrs.USER_AGENT))


def client_address(
    peer: str | None, forwarded: Sequence[str], trusted: Iterable[Network]
) -> str | None:
    """The client's address; ``forwarded`` are the ``X-Forwarded-For`` lines, as they came."""
    believed = _address(peer or "")
    if believed is None:
        return peer
    networks = tuple(trusted)
    entries = ",".join(forwarded).split(",") if forwarded else []
    for entry in reversed(entries[-MAX_HOPS:]):
        if not any(believed in network for network in networks):
            break
        further = _address(_without_port(entry.strip().strip('"')))
        if further is None:
            break
        believed = further
    return str(believed)


def _without_port(entry: str) -> str:
    """The address of ``192.0.2.1:80``, ``[2001:db8::1]:80`` or ``[2001:db8::1]``."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


@lru_cache(maxsize=1024)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
