"""Tokens: 256 random bits each, opaque to everybody, in two spellings.

Of a login's session: 43 characters of URL-safe base64. Of a machine's token, which people paste
where they should not, a spelling that secret scanners find and check::

    gatelog_  43 characters of base62 (0-9A-Za-z): the random bits as a number, with leading zeros
              6 characters of base62: the CRC-32 (that of zlib) of all before, likewise

No character of it ends a word, so that a double click marks all of it. The form follows that of
GitHub's tokens ("Behind GitHub's new authentication token formats", 2021). The checksum keeps
nobody out: it tells a token from a word that looks like one, without asking anybody.

Only the SHA-256 of the token's text is ever stored. The hash is over the text and not over the
decoded bytes, so that no second spelling of a token exists.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from zlib import crc32

TOKEN_BYTES = 32
TOKEN_LENGTH = 43
MACHINE_PREFIX = "gatelog_"
MACHINE_TOKEN = r"gatelog_[0-9A-Za-z]{49}"  # noqa: S105  # for secret scanners

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [high + low for high in _BASE62 for low in _BASE62]  # quicker than one by one
_PAIR = len(_PAIRS)
_VALUES = {pair: value for value, pair in enumerate(_PAIRS)}
_RANDOM_LENGTH = 43  # 62^43 is more than 2^256

_well_formed = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch
_machine = re.compile(MACHINE_TOKEN).fullmatch


def token_from_random(random: bytes) -> str:
    """The token of a session for 32 random bytes."""
    _check_random(random)
    return urlsafe_b64encode(random).rstrip(b"=").decode()


def machine_token_from_random(random: bytes) -> str:
    """The token of a machine for 32 random bytes."""
    _check_random(random)
    number, digits = int.from_bytes(random, "big"), ""
    for _ in range(_RANDOM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    text = MACHINE_PREFIX + digits
    return text + checksum(text)


def _check_random(random: bytes) -> None:
    if len(random) != TOKEN_BYTES:
        raise ValueError(f"a token needs {TOKEN_BYTES} random bytes")


def is_well_formed(token: str) -> bool:
    """Whether the text could be a session's token; what is not needs no look into any store."""
    return _well_formed(token) is not None


def is_machine_token(token: str) -> bool:
    """Whether the text could be a machine's token: its form is right, and its checksum."""
    return _machine(token) is not None and fits_checksum(token)


def fits_checksum(token: str) -> bool:
    """Whether the checksum of a text of this form is right. This runs on every request."""
    said = (_VALUES[token[51:53]] * _PAIR + _VALUES[token[53:55]]) * _PAIR + _VALUES[token[55:57]]
    return crc32(token[:51].encode()) == said


def checksum(text: str) -> str:
    """The last six characters of the token that begins with this text."""
    rest, low = divmod(crc32(text.encode("ascii")), _PAIR)
    high, middle = divmod(rest, _PAIR)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def token_digest(token: str) -> bytes:
    """SHA-256 of the token's text (32 bytes): what tables, replica and log hold."""
    return hashlib.sha256(token.encode("ascii")).digest()
