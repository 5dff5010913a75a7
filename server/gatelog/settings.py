"""The types of settings, and what is written in their texts: networks, origins, hosts, roles.

Rules: what is not usable raises ValueError, which says how it must be written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from email.utils import parseaddr
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from gatelog.text import SHORTEST_WORD

Network = IPv4Network | IPv6Network
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
DAY_S = 86_400
Seconds = Annotated[float, Meta(gt=0, le=DAY_S * 400)]
IdleSeconds = Annotated[int, Meta(ge=0, le=DAY_S * 400)]
# Python's $ lets a line end follow; the document's readers know no \Z.
RoleName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}(?!\n)$")]
Permission = Annotated[str, Meta(min_length=1, max_length=128)]
ROLES = ("admin", "auditor")  # those that the product itself knows
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class Lifetimes(msgspec.Struct, frozen=True):
    """How long a session lives at most and unused, in seconds; ``idle_s`` 0: it need not be."""

    lifetime_s: float
    idle_s: int

    def exceeds(self, bound: Lifetimes) -> bool:
        """Whether either is longer than this bound."""
        longer = self.idle_s > bound.idle_s or self.idle_s == 0
        return self.lifetime_s > bound.lifetime_s or (longer and bound.idle_s > 0)


class RoleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for who has a role. What is None is as for everybody.

    ``permissions``: what its users may do, by the names that the application gives.
    ``factors``: a session has the role only where it began with a second factor, or a passkey.
    """

    lifetime_s: Seconds | None = None
    idle_s: IdleSeconds | None = None
    permissions: tuple[Permission, ...] = ()
    factors: bool = False


ASSURANCE = {
    # NIST SP 800-63B-4, sections 2.1.3, 2.2.3 and 2.3.3; it asks for no idle timeout of AAL1
    "aal1": Lifetimes(30 * DAY_S, 0),
    "aal2": Lifetimes(DAY_S, 3600),
    "aal3": Lifetimes(DAY_S / 2, 900),
}


_read_roles = msgspec.json.Decoder(dict[RoleName, RoleSettings]).decode


@lru_cache(maxsize=8)
def parse_roles(text: str) -> Mapping[str, RoleSettings]:
    """The settings of roles in this JSON, by their names. Raises ValueError."""
    try:
        return MappingProxyType(_read_roles(text) if text.strip() else {})
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


_Upstream = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}(?!\n)$")]
_read_upstreams = msgspec.json.Decoder(dict[_Upstream, str]).decode
# A name, an IPv4 address, or an IPv6 address in brackets; nothing that is read in two ways.
_upstream = re.compile(
    r"https?://(?:[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
    r"((?:/[A-Za-z0-9._~-]+)*)/?"
).fullmatch


@lru_cache(maxsize=8)
def parse_upstreams(text: str) -> Mapping[str, str]:
    """The addresses of services in this JSON, by their names. Raises ValueError."""
    try:
        upstreams = _read_upstreams(text) if text.strip() else {}
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    for name, address in upstreams.items():
        match = _upstream(address)
        if match is None or {".", ".."} & set(match[2].split("/")):
            raise ValueError(f"{name!r} must be like https://orders.internal:8443/api")
        if urlsplit(address).port == 0:
            raise ValueError(f"{name!r} has no such port")
    return MappingProxyType({name: address.rstrip("/") for name, address in upstreams.items()})


@lru_cache(maxsize=8)
def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks in this text, separated by commas. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


@lru_cache(maxsize=8)
def parse_origins(text: str) -> frozenset[str]:
    """The origins in this text, separated by commas, as browsers write them. Raises ValueError."""
    origins = [part.strip() for part in text.split(",") if part.strip()]
    for origin in origins:
        if _origin(origin) is None:
            raise ValueError(f"{origin!r} is no origin: scheme, host, and a port that is not usual")
    return frozenset(origins)


_origin = re.compile(
    r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?!80$|443$)[0-9]{1,5})?"
).fullmatch


def check_public_url(text: str) -> None:
    """See that it is an origin, of TLS or of this machine: browsers have passkeys for no others
    (W3C Secure Contexts, section 3.1). Raises ValueError.
    """
    if not text:
        return
    if len(parse_origins(text)) != 1 or "," in text or text != text.strip():
        raise ValueError("it must be one origin, like https://gate.example")
    parts = urlsplit(text)
    host = parts.hostname or ""
    if parts.scheme != "https" and host != "localhost" and not host.endswith(".localhost"):
        raise ValueError("it must begin with https://, unless its host is localhost")
    if host.replace(".", "").isdigit() or ":" in host:
        raise ValueError("it must have a name: passkeys are for no addresses")


@lru_cache(maxsize=8)
def parse_login_url(text: str) -> frozenset[str]:
    """The host of this address of a page, or nothing for none. Raises ValueError."""
    if not text:
        return frozenset()
    match = _page(text)
    if match is None:
        raise ValueError("it must be like https://login.example/page, without a fragment")
    return parse_hosts(match[1])


@lru_cache(maxsize=8)
def parse_hosts(text: str) -> frozenset[str]:
    """The hosts in this text, separated by commas, as browsers write them. Raises ValueError."""
    hosts = frozenset(part.strip() for part in text.split(",") if part.strip())
    for host in hosts:
        if _origin(f"https://{host}") is None:
            raise ValueError(f"{host!r} is no host: lower case, and a port that is not usual")
    return hosts


@lru_cache(maxsize=8)
def parse_words(text: str) -> frozenset[str]:
    """The words in this text, separated by commas, NFKC and case-folded. Raises ValueError."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = frozenset(part.strip() for part in folded.split(",") if part.strip())
    for word in words:
        if len(word) < SHORTEST_WORD:
            raise ValueError(f"{word!r} is shorter than {SHORTEST_WORD} characters")
    return words


_page = re.compile(r"https?://([a-z0-9.:\[\]-]+)(?:/[!$-\[\]-~]*)?").fullmatch


class SmtpServer(msgspec.Struct, frozen=True):
    """A server that takes mails. ``tls``: from the first byte, by STARTTLS, or not at all."""

    host: str
    port: int
    tls: Literal["implicit", "starttls", "none"]
    user: str = ""
    password: str = ""


_SMTP: dict[str, tuple[Literal["implicit", "starttls", "none"], int]] = {
    "smtps": ("implicit", 465),
    "smtp+starttls": ("starttls", 587),
    "smtp": ("none", 25),
}


def parse_smtp_url(text: str) -> SmtpServer:
    """The server in this URL. Raises ValueError, without any part of the URL in it."""
    try:
        parts = urlsplit(text)
        port, found = parts.port, _SMTP.get(parts.scheme)
    except ValueError:
        found = None
    if found is None or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise ValueError("it must be like smtps://user:password@mail.example, or smtp+starttls://…")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return SmtpServer(parts.hostname, port or found[1], found[0], user, password)


def check_sender(text: str) -> None:
    """See that it is an address of mail, perhaps with a name. Raises ValueError."""
    address = parseaddr(text)[1]
    usable = text.isprintable() and re.fullmatch(r"[^@\s]+@[^@\s]+", address)
    if text and not usable:
        raise ValueError("it must be like gate@example.com, or Gate <gate@example.com>")


def check_url(text: str) -> None:
    """See that it names a PostgreSQL database.

    Raises ValueError, without any part of the URL in it: there may be a password.
    """
    try:
        parts = urlsplit(text)
        hosts = parts.netloc.rpartition("@")[2].split(",")  # a primary and its standbys
        usable = parts.scheme in {"postgres", "postgresql"} and all(
            (urlsplit(f"//{host}").port or 1) > 0 for host in hosts
        )
    except ValueError:
        usable = False
    if text and not usable:
        raise ValueError("it must be like postgresql://user:password@host:5432/database")
