"""Session tokens: 256 random bits as 43 characters of URL-safe base64, opaque to everybody.

Only the SHA-256 of the token's text is ever stored. The hash is over the text and not over the
decoded bytes, so that no second spelling of a token exists.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode

TOKEN_BYTES = 32
TOKEN_LENGTH = 43

_well_formed = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch


def token_from_random(random: bytes) -> str:
    """The token for 32 random bytes."""
    if len(random) != TOKEN_BYTES:
        raise ValueError(f"a token needs {TOKEN_BYTES} random bytes")
    return urlsafe_b64encode(random).rstrip(b"=").decode()


def is_well_formed(token: str) -> bool:
    """Whether the text could be a token; what is not needs no look into any store."""
    return _well_formed(token) is not None


def token_digest(token: str) -> bytes:
    """SHA-256 of the token's text (32 bytes): what tables, replica and log hold."""
    return hashlib.sha256(token.encode("ascii")).digest()
