"""Numbers, hashes and base64 in their one spelling: anything else raises MalformedProof."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error

from gatelog.errors import MalformedProof
from gatelog.proofs.rules.merkle import (
    HASH_BYTES,
    MAX_TREE_SIZE,
)

_decimal = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII).fullmatch


def encoded(data: bytes) -> str:
    return b64encode(data).decode()


def decoded(text: str, what: str) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise MalformedProof(f"{what} is not base64") from error
    if encoded(data) != text:
        raise MalformedProof(f"{what} is not canonical base64")
    return data


def number(text: str, what: str) -> int:
    if not _decimal(text) or int(text) > MAX_TREE_SIZE:
        raise MalformedProof(f"{what} is not a number in its canonical form")
    return int(text)


def hash_from(text: str, what: str) -> bytes:
    value = decoded(text, what)
    if len(value) != HASH_BYTES:
        raise MalformedProof(f"{what} has {len(value)} bytes; a hash has {HASH_BYTES}")
    return value
