"""What a request says of who sends it: the token, where it comes from, and what it prefers.

The check before a handler reads the token and nothing else. Who needs more asks ``caller_of``;
it is read then, once, and handed on as one value. Rules:

- The address is that of the connection's peer. Only when the peer is a trusted proxy, the last
  entry of ``X-Forwarded-For`` is believed, and so on from right to left as long as each entry is a
  trusted proxy itself: anything further left may have been written by the client.
- What is no address ends the walk; the last one that was believed counts.
- Address and agent are bounded. They are personal: they go nowhere but into sealed fields.
- ``Prefer: receipt`` (RFC 7240) takes no value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from gatelog.http.credentials import UnclearCredentials, has_session_cookie, is_local, read_token
from gatelog.http.settings import CONFIG
from gatelog.privacy.rules import Client
from gatelog.sessions.rules.tokens import token_digest
from gatelog.settings import Network

MAX_HOPS = 32
MAX_CLIENT_TEXT = 512  # characters of an address or agent; what is longer is cut
PREFER: Final = istr("Prefer")
RECEIPT: Final = "receipt"

_quoted = re.compile(r'"(?:[^"\\]|\\.)*"')


class Caller(msgspec.Struct, frozen=True):
    """Who sends a request, as far as the request tells.

    ``digest``: of the token; None without one, and where what comes is ``unclear``. ``by_cookie``:
    with a session cookie, well-formed or not; ``local``: from this very machine, over plain HTTP.
    """

    digest: bytes | None
    client: Client
    by_cookie: bool
    local: bool
    wants_receipt: bool
    unclear: bool = False


_CALLER: Final = web.RequestKey("caller", Caller)


def caller_of(request: web.Request) -> Caller:
    """What this request carries; read when it is asked for first."""
    caller = request.get(_CALLER)
    if caller is None:
        caller = request[_CALLER] = _read(request)
    return caller


def _read(request: web.Request) -> Caller:
    headers = request.headers
    lines = headers.getall(hdrs.X_FORWARDED_FOR, ())
    address = client_address(request.remote, lines, request.config_dict[CONFIG].trusted_networks)
    sender = client(address, headers.get(hdrs.USER_AGENT))
    wants_receipt = prefers_receipt(headers.getall(PREFER, ()))
    by_cookie, local = has_session_cookie(request), is_local(request)
    try:
        token = read_token(request)
    except UnclearCredentials:
        return Caller(None, sender, by_cookie, local, wants_receipt, unclear=True)
    digest = token_digest(token) if token is not None else None
    return Caller(digest, sender, by_cookie, local, wants_receipt)


# --- where it comes from


def client(address: str | None, agent: str | None) -> Client:
    """A client from texts that anybody may have chosen: bounded, and storable as UTF-8."""
    return Client(_bounded(address), _bounded(agent))


def _bounded(text: str | None) -> str | None:
    if not text:
        return None
    return text[:MAX_CLIENT_TEXT].encode("utf-8", "replace").decode()


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


# --- what it prefers


def prefers_receipt(lines: Sequence[str]) -> bool:
    """Whether these ``Prefer`` headers have the preference ``receipt``."""
    for line in lines:
        for preference in _quoted.sub('""', line).split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == RECEIPT and value.strip() in {"", '""'}:
                return True
    return False
