"""Hashes that Django 5.2 and passlib 1.7 have made, of passwords that they were told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from gatelog.accounts.rules.foreign_hashes import (
    MAX_ARGON2_KIB,
    is_foreign,
    nothing_like,
    parse_hash,
)
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.config import Config
from gatelog.errors import InvalidInput, Unavailable
from hypothesis import given
from hypothesis import strategies as st

MADE = json.loads((Path(__file__).parent / "foreign_hashes.json").read_text())
PASSWORD = MADE["password"]
LONG = "$2b$04$htYUoJlCVuy4xhseg6v/.elYF77d./zCVNAma0JlAbfQlZzX1IrJW"  # of 100 times x
ALL = [*MADE["django"].values(), *MADE["passlib"].values()]
NAMES = [f"{who} {scheme}" for who in ("django", "passlib") for scheme in MADE[who]]


@pytest.fixture
def pool(config: Config) -> Iterator[PasswordPool]:
    pool = PasswordPool(config)
    yield pool
    pool.close()


@pytest.mark.parametrize("text", ALL, ids=NAMES)
async def test_a_password_fits_the_hash_that_others_made_of_it(
    pool: PasswordPool, text: str
) -> None:
    kept = parse_hash(text).kept
    assert is_foreign(kept)
    assert pool.needs_rehash(kept)
    assert parse_hash(kept).kept == kept
    assert await pool.verify(kept, PASSWORD)
    assert not await pool.verify(kept, PASSWORD[:-1])


async def test_bcrypt_looks_at_72_bytes(pool: PasswordPool) -> None:
    assert await pool.verify(LONG, "x" * 100)
    assert await pool.verify(LONG, "x" * 72)
    assert not await pool.verify(LONG, "x" * 71)


async def test_bits_of_bcrypt_that_say_nothing_are_whatever_they_are(pool: PasswordPool) -> None:
    """Some have written others than 0: of the salt's last character, and of the value's."""
    assert LONG[28] == "e" and LONG[59] == "W"
    assert await pool.verify(f"{LONG[:28]}f{LONG[29:59]}X", "x" * 72)


async def test_a_password_that_others_did_not_normalise_fits(pool: PasswordPool) -> None:
    """It is hashed here as NFKC; elsewhere it was as it was typed, or normalised there."""
    import bcrypt

    typed, normal = "ﬁnal ①", "final 1"
    for text in (typed, normal):
        kept = bcrypt.hashpw(text.encode(), b"$2b$04$DvgmxLF1..D98D1BtA1va.").decode()
        assert await pool.verify(kept, normal, typed=typed)
    own = await pool.hash(normal)
    assert await pool.verify(own, normal, typed=typed)


@pytest.mark.parametrize("text", ALL, ids=NAMES)
async def test_nothing_fits_what_costs_the_same(pool: PasswordPool, text: str) -> None:
    parsed = parse_hash(text)
    decoy = nothing_like(parsed.cost, bytes(range(64)))
    assert parse_hash(decoy).cost == parsed.cost
    assert not await pool.verify(None, PASSWORD, cost=parsed.cost)


SALT, VALUE = "c2FsdHNhbHQ", "A" * 43
TOO_DEAR = (
    f"$argon2id$v=19$m={MAX_ARGON2_KIB + 1},t=1,p=1${SALT}${VALUE}",
    f"$argon2id$v=19$m=4194304,t=1,p=1${SALT}${VALUE}",
    f"argon2$argon2id$v=19$m=64,t=99999999,p=1${SALT}${VALUE}",
    f"$argon2d$v=19$m=1024,t=1,p=17${SALT}${VALUE}",
    f"$2b$15${'a' * 53}",
    f"bcrypt_sha256$$2b$31${'a' * 53}",
    f"$bcrypt-sha256$v=2,t=2b,r=20${'a' * 22}${'a' * 31}",
    f"$scrypt$ln=99,r=8,p=1${SALT}${VALUE}",
    f"$scrypt$ln=18,r=8,p=1${SALT}${VALUE}",
    f"scrypt$16384$salt$8$9${VALUE}",
    f"scrypt$2$salt$999999999$1${VALUE}",
    f"scrypt$2$salt$1$999999999${VALUE}",
    f"pbkdf2_sha256$2500001$salt${VALUE}",
    f"$pbkdf2-sha512$999999999${SALT}${VALUE}",
)
NO_HASH = (
    "",
    "secret",
    "d41d8cd98f00b204e9800998ecf8427e",
    "md5$salt$d41d8cd98f00b204e9800998ecf8427e",
    "!",
    "$1$salt$abc",
    "$2x$04$" + "a" * 53,
    "$2b$03$" + "a" * 53,
    "$2b$04$" + "a" * 52,
    f"$argon2id$v=18$m=64,t=1,p=1${SALT}${VALUE}",
    f"$argon2id$v=19$m=7,t=1,p=1${SALT}${VALUE}",
    f"$argon2id$v=19$m=64,t=0,p=1${SALT}${VALUE}",
    f"$argon2id$v=19$m=64,t=1,p=1${SALT}$QUFB",
    f"scrypt$3$salt$8$1${VALUE}",
    f"pbkdf2_sha256$0$salt${VALUE}",
    f"pbkdf2_md5$1000$salt${VALUE}",
    "pbkdf2_sha256$1000$salt$QUFB",
    "pbkdf2_sha256$1000$salt$" + "A" * 200,
    f"pbkdf2_sha256$1000${'s' * 2000}${VALUE}",
    f"pbkdf2_sha256$1000$salt${VALUE}\n",
    "pbkdf2_sha256$1000$salt$\u0661" + VALUE,
)


@pytest.mark.parametrize("text", [*TOO_DEAR, *NO_HASH])
def test_what_is_no_hash_or_costs_too_much_is_refused_unquoted(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_hash(text)
    assert ("costs more" in str(refused.value)) == (text in TOO_DEAR)
    assert not text or text not in str(refused.value)


@given(st.text(alphabet="$argon2idv=9m,tpbcrypsh56_0123456789./+=", max_size=80))
def test_any_text_is_a_hash_or_refused(text: str) -> None:
    try:
        parsed = parse_hash(text)
    except InvalidInput:
        return
    assert parse_hash(parsed.kept).cost == parsed.cost


async def test_a_damaged_hash_is_no_open_door(pool: PasswordPool) -> None:
    with pytest.raises(Unavailable):
        await pool.verify("plain", "plain")


@pytest.mark.parametrize(
    "text",
    [
        f"argon2$argon2id$v=19$m=102400,t=2,p=8${SALT}${VALUE}",
        f"$2b$12${'a' * 53}",
        f"scrypt$16384$salt$8$5${VALUE}",
        f"pbkdf2_sha256$1000000$salt${VALUE}",
    ],
)
async def test_nobody_costs_what_somebody_does(config: Config, text: str) -> None:
    """What these systems make today, against a name that was dealt the same."""
    pool = PasswordPool(msgspec.structs.replace(config, argon2_memory_kib=19_456))
    cost = parse_hash(text).cost

    async def cpu_time(password_hash: str | None) -> float:
        started = time.process_time()
        assert not await pool.verify(password_hash, "wrong", cost=cost)
        return time.process_time() - started

    pairs = [(await cpu_time(None), await cpu_time(parse_hash(text).kept)) for _ in range(3)]
    pool.close()
    nobody, somebody = (min(times) for times in zip(*pairs, strict=True))
    assert 0.7 < nobody / somebody < 1.4
