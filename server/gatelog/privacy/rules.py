"""What is personal in an event, and how it is sealed so that it can be forgotten.

Login name, client address and user agent enter the log only inside an event's ``sealed`` field.
Whoever destroys a person's key destroys these, and no hash of the log changes.

Formats (nothing else is needed to open a sealed field, given the key)::

    sealed   nonce (12 bytes) ‖ AES-256-GCM(key, nonce, plaintext, AAD) with its 16-byte tag
    AAD      event id (16 bytes) ‖ event type (ASCII)
    plain    MessagePack array [login, address, agent, trace, name, more], nil where unknown ‖
             0x80 ‖ 0x00 … up to a multiple of 32 bytes, so that its length tells little of a
             name's; ``name`` is that of a token and ``more`` an array of [field, value], and they
             are there only where there is one

    wrapped  nonce (12 bytes) ‖ AES-256-GCM(master key, nonce, key, AAD) with its 16-byte tag
    AAD      what the key is for: ``subject``, ``day`` or ``address`` ‖ 0x00 ‖ whose it is
             (the user's id as 16 bytes, the day as YYYY-MM-DD, nothing)

    index    the first 16 bytes of HMAC-SHA-256(address key, normalised address)
    found    the first 8 bytes, as a signed number, of HMAC-SHA-256(address key,
             ``event_network`` ‖ 0x00 ‖ network, as ``10.0.0.0/8``), and the same of ``event_login``
             and a normalised login name: of 10^7 of them, two are the same with a probability of
             3·10^-6
    blind    the first 16 bytes of HMAC-SHA-256(address key, purpose ‖ 0x00 ‖ text), for what is
             counted and not searched for: no address holds a NUL, so no purpose is another's

    derived  HKDF-SHA-256 (RFC 5869) of the master key, without salt, 32 bytes
    info     ``gatelog derived key`` ‖ 0x00 ‖ what it is for

Rules:

- The data is that of who acted, and is sealed under the key of that person: the administrator's
  (``actor_id``) where there was one, else the user's own; of a login name that nobody has, under
  the key of the day (``occurred_at`` in UTC). So erasing a person reaches all that they left
  behind, in the events of others too, and nothing of anybody else.
- A nonce is random and used once; it comes in as an argument, as keys do.
"""

from __future__ import annotations

import hmac
from datetime import UTC, date
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gatelog.errors import InvalidInput
from gatelog.log.rules import events as ev
from gatelog.log.rules.kinds import Beside, Need, State, Trace, World
from gatelog.master_keys import master_key_id

KEY_BYTES = 32
NONCE_BYTES = 12
WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + 16
ADDRESS_INDEX_BYTES = 16
PADDED_TO = 32  # bytes


class UserErased(ev.UserEvent, frozen=True, kw_only=True, tag="user_erased"):
    """The user is gone for good, and the key to everything personal with them."""


class Personal(msgspec.Struct, frozen=True, array_like=True):
    """What an event may say of a person, or a person of a token (``name``).

    ``more``: fields that an application records of the person, by their names. New fields are added
    at the end. ``trace`` is the 16 bytes of the request's trace id (W3C Trace Context): lines of
    other logs have it, too, and may say whose request it was. So it is forgotten with the rest.
    """

    login: str | None = None
    address: str | None = None
    agent: str | None = None
    trace: bytes | None = None
    name: str | None = None
    more: tuple[tuple[str, str | int | bool], ...] | None = None

    @property
    def trace_id(self) -> str | None:
        """The trace id as lines of logs have it: 32 hexadecimal digits."""
        return self.trace.hex() if self.trace is not None else None


class Client(msgspec.Struct, frozen=True):
    """Where a request comes from, as far as that is known."""

    address: str | None = None
    agent: str | None = None


UNKNOWN_CLIENT = Client()


# --- sealing

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Personal).decode


def person_of(event: ev.Event) -> UUID | None:
    """Whose personal data the event holds: who acted. None: of nobody who has a key."""
    actor_id = event.actor_id if isinstance(event, ev.UserEvent) else None
    return actor_id or event.subject_id


def day_of(event: ev.Event) -> date:
    """The day whose key seals an event of nobody."""
    return event.occurred_at.astimezone(UTC).date()


def seal(personal: Personal, key: bytes, nonce: bytes, event_id: UUID, event_type: str) -> bytes:
    """The ``sealed`` field of the event with this id and type."""
    fields = msgspec.structs.astuple(personal)
    if personal.more is None:  # as versions before this one write it, who read it as well
        fields = fields[:-1] if personal.name is not None else fields[:-2]
    plain = _pack(fields)
    plain += b"\x80"
    plain += bytes(-len(plain) % PADDED_TO)
    return nonce + AESGCM(key).encrypt(nonce, plain, _aad(event_id, event_type))


def unseal(event: ev.Event, key: bytes) -> Personal | None:
    """What is sealed in the event; None when nothing is, or when this is not its key."""
    if event.sealed is None:
        return None
    nonce, sealed = event.sealed[:NONCE_BYTES], event.sealed[NONCE_BYTES:]
    try:
        plain = AESGCM(key).decrypt(nonce, sealed, _aad(event.event_id, event.type))
        return _unpack(plain.rstrip(b"\x00")[:-1])
    except (InvalidTag, ValueError, msgspec.DecodeError):  # another key, too short, no such array
        return None


def _aad(event_id: UUID, event_type: str) -> bytes:
    return event_id.bytes + event_type.encode("ascii")


# --- keys


class WrappedKey(msgspec.Struct, frozen=True):
    """A key as the database holds it: encrypted with the master key of this id."""

    wrapped: bytes
    master_key_id: bytes


def subject_purpose(subject_id: UUID) -> bytes:
    return b"subject\x00" + subject_id.bytes


def day_purpose(day: date) -> bytes:
    return b"day\x00" + day.isoformat().encode()


ADDRESS_PURPOSE = b"address\x00"


def wrap(key: bytes, purpose: bytes, master_key: bytes, nonce: bytes) -> WrappedKey:
    """The key as it may be stored."""
    wrapped = nonce + AESGCM(master_key).encrypt(nonce, key, purpose)
    return WrappedKey(wrapped, master_key_id(master_key))


def unwrap(wrapped: bytes, purpose: bytes, master_key: bytes) -> bytes:
    """The key. Raises ValueError when it was wrapped otherwise, or for another purpose."""
    try:
        return AESGCM(master_key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], purpose)
    except InvalidTag:
        raise ValueError("a wrapped key does not fit its master key or its owner") from None


def derive(master_key: bytes, purpose: bytes) -> bytes:
    """A key that everybody has who has the master key, and that tells nothing of it."""
    info = b"gatelog derived key\x00" + purpose
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(master_key)


# --- search by address


def normalise_address(text: str) -> str:
    """The one spelling of an IP address; an IPv4 address inside IPv6 is that IPv4 address.

    Raises InvalidInput for what is no IP address.
    """
    try:
        address = ip_address(text.strip())
    except ValueError:
        raise InvalidInput("This is no IP address.") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def address_index(address: str, address_key: bytes) -> bytes:
    """What events from this address are found by, and nobody without the key can compute."""
    digest = hmac.digest(address_key, normalise_address(address).encode(), "sha256")
    return digest[:ADDRESS_INDEX_BYTES]


# --- search by network and by login name

Reach = Literal["near", "middle", "wide"]
REACHES: tuple[Reach, ...] = ("near", "middle", "wide")
# Which networks an event can be found by, of either version; a single address has an index of its
# own. /24, and /64 (what one customer has), a site (/48, RFC 6177), what one provider has.
PREFIXES: dict[int, tuple[int, ...]] = {4: (24, 16, 8), 6: (64, 48, 32)}
ADDRESS_PREFIX = {4: 32, 6: 128}

_network = lru_cache(maxsize=64)(ip_network)


def normalise_network(text: str) -> str:
    """The one spelling of a network that can be searched for; a single address is one, too.

    Raises InvalidInput for what is none: no network, bits beyond its prefix, another length.
    """
    try:
        network = _mapped(ip_network(text.strip()))
    except ValueError:
        raise InvalidInput("This is no network, as 10.0.0.0/8.") from None
    if network.prefixlen not in (*PREFIXES[network.version], ADDRESS_PREFIX[network.version]):
        raise InvalidInput("Networks are found by /8, /16, /24, /32; of IPv6 /32, /48, /64, /128.")
    return str(network)


def _mapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """The network; one of IPv4 addresses inside IPv6 is that IPv4 network."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        inside = network.network_address.ipv4_mapped
        if inside is not None:
            return IPv4Network((inside, network.prefixlen - 96))
    return network


def reach_of(network: str) -> Reach | None:
    """How wide a (normalised) network is; None for a single address."""
    found = _network(network)
    if found.prefixlen == ADDRESS_PREFIX[found.version]:
        return None
    return REACHES[PREFIXES[found.version].index(found.prefixlen)]


def is_within(address: str | None, network: str) -> bool:
    """Whether an address, if it is one, lies in a (normalised) network."""
    try:
        found = ip_address(normalise_address(address or "").partition("%")[0])
    except InvalidInput:
        return False
    return found in _network(network)


def networks_of(address: str) -> tuple[str, str, str]:
    """The networks that an IP address is found by: the near, the middle and the wide one.

    Raises InvalidInput for what is no IP address.
    """
    normal = normalise_address(address).partition("%")[0]
    if ":" not in normal:  # as below, in a tenth of the time
        a, b, c, _ = normal.split(".")
        return f"{a}.{b}.{c}.0/24", f"{a}.{b}.0.0/16", f"{a}.0.0.0/8"
    near, middle, wide = (
        str(ip_network(f"{normal}/{prefix}", strict=False)) for prefix in PREFIXES[6]
    )
    return near, middle, wide


def found_by(purpose: Literal["network", "login"], text: str, address_key: bytes) -> int:
    """What events are found by that have to do with this normalised network or login name."""
    digest = hmac.digest(address_key, f"event_{purpose}\x00{text}".encode(), "sha256")
    return int.from_bytes(digest[:8], signed=True)


class Origin(Trace, frozen=True):
    """What the sealed events of a command can be found by: blind indexes, and nothing else.

    ``address`` and ``networks`` (near, middle, wide) of where it came from, ``login`` of the name
    that is sealed in them.
    """

    address: bytes | None = None
    networks: tuple[int, int, int] | None = None
    login: int | None = None


class Origins(Trace, frozen=True):
    """The same for a command about many: for each its own, by the user's id."""

    by_subject: dict[UUID, Origin]


def origin_of(address: str | None, login: str | None, address_key: bytes) -> Origin | None:
    """The origin of what has this address and this (normalised) login name sealed in it.

    None: there is nothing to be found by. What is no IP address is not searched for.
    """
    name = found_by("login", login, address_key) if login is not None else None
    try:
        index = address_index(address or "", address_key)
        near, middle, wide = (
            found_by("network", network, address_key) for network in networks_of(address or "")
        )
    except InvalidInput:
        return Origin(login=name) if name is not None else None
    return Origin(index, (near, middle, wide), name)


# --- what is counted, but never told


def place_of(address: str | None) -> str:
    """The network that counts as one place: an IPv4 address, the /64 of an IPv6 address.

    A /64 is what one customer has at least (RFC 6177, section 2): whoever has it has all of its
    2^64 addresses. What is no IP address is one place, whatever it is.
    """
    try:
        normal = normalise_address(address or "")
    except InvalidInput:
        return "nowhere"
    size = 64 if ":" in normal else 32
    return str(ip_network(f"{normal.partition('%')[0]}/{size}", strict=False))


def blind_index(purpose: str, text: str, address_key: bytes) -> bytes:
    """What this text is counted by: the same for the same purpose, and nothing else can be told."""
    digest = hmac.digest(address_key, f"{purpose}\x00{text}".encode(), "sha256")
    return digest[:ADDRESS_INDEX_BYTES]


# --- what is written beside the log


class CurrentMasterKey(Need, frozen=True):
    """The key that new keys are wrapped with."""


class SubjectKeys(State):
    """What a batch changes of users' keys. ``current``: the master key's id, if asked for."""

    concerns = (UserErased,)

    def __init__(self) -> None:
        self.current: bytes | None = None  # also before the first one
        self.new: dict[UUID, WrappedKey] = {}
        self.erased: list[UUID] = []

    def apply(self, event: ev.Event, position: int, trace: Trace | None) -> None:
        if event.subject_id is not None:
            self.erased.append(event.subject_id)
            self.new.pop(event.subject_id, None)


class NewSubjectKey(Beside, frozen=True):
    """The key of a new user."""

    subject_id: UUID
    key: WrappedKey

    def enter(self, world: World) -> None:
        world.of(SubjectKeys).new[self.subject_id] = self.key


class Addresses(State):
    """The blind indexes of a batch's events: what they are found by, of what is sealed in them.

    ``rows``: (address, position, person); ``origins``: (position, person, near, middle, wide,
    login). ``first`` and ``last`` are the positions of the batch's events, 0 where there are none.
    """

    concerns = (ev.Event,)

    def __init__(self) -> None:
        self.rows: list[tuple[bytes, int, UUID | None]] = []
        self.origins: list[OriginRow] = []
        self.erased: list[UUID] = []
        self.first = self.last = 0

    def apply(self, event: ev.Event, position: int, trace: Trace | None) -> None:
        self.first, self.last = self.first or position, position
        if isinstance(event, UserErased):
            gone = event.subject_id
            self.erased.append(gone)
            self.rows = [row for row in self.rows if row[2] != gone]
            self.origins = [row for row in self.origins if row[1] != gone]
        if trace is None or event.sealed is None:
            return
        origin: Trace | None = trace
        if isinstance(trace, Origins):
            origin = trace.by_subject.get(event.subject_id) if event.subject_id else None
        if not isinstance(origin, Origin):
            return
        person = person_of(event)
        if origin.address is not None:
            self.rows.append((origin.address, position, person))
        if origin.networks is not None or origin.login is not None:
            self.origins.append(origin_row(position, person, origin))


OriginRow = tuple[int, UUID | None, int | None, int | None, int | None, int | None]


def origin_row(position: int, person: UUID | None, origin: Origin) -> OriginRow:
    """The row of ``event_origins`` for an event at a position."""
    near, middle, wide = origin.networks or (None, None, None)
    return position, person, near, middle, wide, origin.login
