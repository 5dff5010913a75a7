"""Sealing: what is pinned, what opens it, and what does not."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode, urlsafe_b64encode
from datetime import UTC, date, datetime, timedelta, timezone
from uuid import UUID

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from gatelog.accounts.rules.events import LoginFailed, UserDisabled, UserEnabled
from gatelog.errors import InvalidInput
from gatelog.log.rules import events as ev
from gatelog.master_keys import format_master_keys, master_key_id, parse_master_keys
from gatelog.privacy.rules import (
    REACHES,
    Origin,
    Personal,
    address_index,
    blind_index,
    day_of,
    day_purpose,
    derive,
    found_by,
    is_within,
    networks_of,
    normalise_address,
    normalise_network,
    origin_of,
    person_of,
    reach_of,
    seal,
    subject_purpose,
    unseal,
    unwrap,
    wrap,
)
from hypothesis import given
from hypothesis import strategies as st

KEY, OTHER_KEY, NONCE = b"k" * 32, b"o" * 32, b"n" * 12
ID = UUID("01900000-0000-7000-8000-000000000001")
USER, ADMIN = UUID(int=10), UUID(int=11)
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRACE = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")  # of W3C Trace Context, section 3.2
ADA = Personal("ada", "192.0.2.1", "curl/8", TRACE)

texts = st.none() | st.text(max_size=600)
traces = st.none() | st.binary(min_size=16, max_size=16)
personals = st.builds(Personal, texts, texts, texts, traces)


def sealed(personal: Personal = ADA, key: bytes = KEY) -> UserEnabled:
    event = UserEnabled(event_id=ID, occurred_at=AT, subject_id=USER)
    field = seal(personal, key, NONCE, event.event_id, event.type)
    return msgspec.structs.replace(event, sealed=field)


@given(personals)
def test_what_is_sealed_is_opened_with_its_key_and_no_other(personal: Personal) -> None:
    event = ev.decode(ev.encode(sealed(personal)))
    assert unseal(event, KEY) == personal
    assert unseal(event, OTHER_KEY) is None


def test_the_format_is_the_documented_one() -> None:
    """Opened with nothing but the documentation."""
    field = sealed().sealed
    assert field is not None
    plain = AESGCM(KEY).decrypt(field[:12], field[12:], ID.bytes + b"user_enabled")
    assert len(plain) % 32 == 0
    packed, end, padding = plain.rpartition(b"\x80")
    assert (end, set(padding)) == (b"\x80", {0})
    assert msgspec.msgpack.decode(packed) == ["ada", "192.0.2.1", "curl/8", TRACE]
    assert hashlib.sha256(field).hexdigest() == (
        "f66735f9be16cf43474bd840ab9d8a89297517626e9ac44c38f33ef2c441891a"
    )


def test_it_belongs_to_one_event() -> None:
    event = sealed()
    other_id = msgspec.structs.replace(event, event_id=UUID(int=1))
    other_type = UserDisabled(event_id=ID, occurred_at=AT, subject_id=USER, sealed=event.sealed)
    for moved in (other_id, other_type):
        assert unseal(moved, KEY) is None


@pytest.mark.parametrize("field", [None, b"", b"x", b"n" * 12, b"n" * 28, b"n" * 60])
def test_what_is_not_sealed_opens_to_nothing(field: bytes | None) -> None:
    assert unseal(msgspec.structs.replace(sealed(), sealed=field), KEY) is None


def test_what_is_sealed_but_no_array_opens_to_nothing() -> None:
    field = NONCE + AESGCM(KEY).encrypt(NONCE, b"\x01\x80", ID.bytes + b"user_enabled")
    assert unseal(msgspec.structs.replace(sealed(), sealed=field), KEY) is None


@pytest.mark.parametrize("fields", [["ada", None, None], ["ada", *[None] * 5, "later"]])
def test_fields_that_came_later_and_will_come_are_no_obstacle(fields: list[str | None]) -> None:
    plain = msgspec.msgpack.encode(fields) + b"\x80"
    field = NONCE + AESGCM(KEY).encrypt(NONCE, plain, ID.bytes + b"user_enabled")
    assert unseal(msgspec.structs.replace(sealed(), sealed=field), KEY) == Personal("ada")


def test_the_name_of_a_token_stands_at_the_end_where_there_is_one() -> None:
    named = Personal("ada", name="nightly")
    event = sealed(named)
    assert event.sealed is not None
    plain = AESGCM(KEY).decrypt(event.sealed[:12], event.sealed[12:], ID.bytes + b"user_enabled")
    packed = plain.rpartition(b"\x80")[0]
    assert msgspec.msgpack.decode(packed) == ["ada", None, None, None, "nightly"]
    assert unseal(event, KEY) == named


def test_the_length_does_not_tell_the_name() -> None:
    lengths = {
        len(sealed(Personal(login, "192.0.2.1")).sealed or b"")
        for login in ("a", "ada", "ada.lovelace")
    }
    assert len(lengths) == 1


def test_whose_data_it_is() -> None:
    own = UserEnabled(event_id=ID, occurred_at=AT, subject_id=USER)
    assert person_of(own) == USER
    assert person_of(msgspec.structs.replace(own, actor_id=ADMIN)) == ADMIN
    unknown = LoginFailed(event_id=ID, occurred_at=AT, reason="unknown_login")
    assert person_of(unknown) is None
    assert person_of(msgspec.structs.replace(unknown, subject_id=USER)) == USER


def test_the_day_is_that_of_utc() -> None:
    evening = datetime(2026, 1, 2, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    event = LoginFailed(event_id=ID, occurred_at=evening, reason="unknown_login")
    assert day_of(event) == date(2026, 1, 3)


# --- keys


def test_a_wrapped_key_opens_for_its_owner_with_its_master_key_only() -> None:
    wrapped = wrap(KEY, subject_purpose(USER), OTHER_KEY, NONCE)
    assert len(wrapped.wrapped) == 60
    assert wrapped.master_key_id == master_key_id(OTHER_KEY)
    assert unwrap(wrapped.wrapped, subject_purpose(USER), OTHER_KEY) == KEY
    for purpose, master_key in [
        (subject_purpose(ADMIN), OTHER_KEY),
        (day_purpose(date(2026, 1, 1)), OTHER_KEY),
        (subject_purpose(USER), KEY),
    ]:
        with pytest.raises(ValueError, match="does not fit"):
            unwrap(wrapped.wrapped, purpose, master_key)


def test_a_derived_key_is_that_of_rfc_5869() -> None:
    """Written out: extracted with a salt of zeros, and expanded once (sections 2.2 and 2.3)."""
    extracted = hmac.digest(bytes(32), KEY, "sha256")
    info = b"gatelog derived key\x00" + b"this"
    assert derive(KEY, b"this") == hmac.digest(extracted, info + b"\x01", "sha256")
    assert derive(KEY, b"that") != derive(KEY, b"this") != derive(b"o" * 32, b"this")


def test_purposes_are_never_the_same() -> None:
    assert len({subject_purpose(USER), subject_purpose(ADMIN), day_purpose(AT.date())}) == 3


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_master_keys_are_read_in_either_alphabet(encode: object) -> None:
    keys = [bytes([n]) * 32 for n in (0xFB, 0xFF, 0x3E)]
    text = " ".join(encode(key).decode() for key in keys) + "\n"  # type: ignore[operator]
    parsed = parse_master_keys(text)
    assert list(parsed.values()) == keys
    assert list(parsed) == [master_key_id(key) for key in keys]
    assert parse_master_keys(format_master_keys(parsed)) == parsed


@pytest.mark.parametrize("text", ["", " \n", "short", "x" * 42, "x" * 45, "!" * 43, "é" * 43])
def test_what_is_no_master_key(text: str) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        parse_master_keys(text)
    assert text.strip() == "" or text not in str(caught.value)


# --- search by address


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
    ],
)
def test_an_address_has_one_spelling(text: str, spelling: str) -> None:
    assert normalise_address(text) == spelling
    expected = hmac.new(KEY, spelling.encode(), "sha256").digest()[:16]
    assert address_index(text, KEY) == expected


@pytest.mark.parametrize("text", ["", "localhost", "192.0.2", "192.0.2.1/32", "192.0.2.1:80"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput):
        normalise_address(text)


# --- search by network and login name


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("192.0.2.77", ("192.0.2.0/24", "192.0.0.0/16", "192.0.0.0/8")),
        ("::ffff:10.1.2.3", ("10.1.2.0/24", "10.1.0.0/16", "10.0.0.0/8")),
        (
            "2001:db8:1:2:3::4",
            ("2001:db8:1:2::/64", "2001:db8:1::/48", "2001:db8::/32"),
        ),
        ("fe80::1%eth0", ("fe80::/64", "fe80::/48", "fe80::/32")),
    ],
)
def test_the_networks_of_an_address(address: str, networks: tuple[str, str, str]) -> None:
    assert networks_of(address) == networks
    for network, reach in zip(networks, REACHES, strict=True):
        assert normalise_network(network) == network
        assert reach_of(network) == reach
        assert is_within(address, network)
        digest = hmac.new(KEY, b"event_network\x00" + network.encode(), "sha256").digest()
        assert found_by("network", network, KEY) == int.from_bytes(digest[:8], signed=True)


@given(st.ip_addresses(), st.ip_addresses())
def test_an_address_is_found_by_the_networks_that_it_is_in(one: object, other: object) -> None:
    """And by no others: the same as the standard library says."""
    networks = networks_of(str(one))
    for network in networks:
        assert is_within(str(other), network) == (network in networks_of(str(other)))


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        (" 2001:DB8::/32 ", "2001:db8::/32"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
    ],
)
def test_a_network_has_one_spelling(text: str, spelling: str) -> None:
    assert normalise_network(text) == spelling
    single = spelling.endswith("/128" if ":" in spelling else "/32")
    assert (reach_of(spelling) is None) == single


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.0/12",
        "10.1.0.0/8",
        "2001:db8::/56",
        "0.0.0.0/0",
        "::/0",
        "10/8",
        "example.com/8",
    ],
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(InvalidInput):
        normalise_network(text)


def test_what_is_no_address_is_in_no_network() -> None:
    for address in (None, "", "unix:", "example.com"):
        assert not is_within(address, "10.0.0.0/8")
    assert not is_within("10.0.0.1", "2001:db8::/32")


def test_an_origin_is_what_there_is() -> None:
    login = found_by("login", "ada", KEY)
    assert origin_of(None, None, KEY) is None
    assert origin_of("unix:", None, KEY) is None
    assert origin_of("unix:", "ada", KEY) == Origin(login=login)
    whole = origin_of("192.0.2.1", "ada", KEY)
    assert whole is not None
    assert (whole.address, whole.login) == (address_index("192.0.2.1", KEY), login)
    assert whole.networks == tuple(found_by("network", n, KEY) for n in networks_of("192.0.2.1"))


def test_no_index_is_the_beginning_of_another() -> None:
    """Who has the tables of the throttle and of the log cannot join them."""
    counted = blind_index("login", "ada", KEY)[:8]
    assert found_by("login", "ada", KEY) != int.from_bytes(counted, signed=True)
    assert found_by("network", "ada", KEY) != found_by("login", "ada", KEY)
