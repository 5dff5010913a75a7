"""Verifying a password by the scheme of another system (``accounts.rules.foreign_hashes``).

Each runs in libraries that let go of the interpreter's lock, as argon2 does.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode

import argon2
import bcrypt
from argon2.exceptions import VerifyMismatchError

from gatelog.accounts.rules.foreign_hashes import (
    Argon2,
    Bcrypt,
    ForeignHash,
    Scrypt,
    parse_hash,
)

BCRYPT_BYTES = 72  # what bcrypt looks at; others cut off what is longer, and so must we
_SALT = slice(7, 29)  # in the text of a bcrypt hash

_argon2 = argon2.PasswordHasher()


def fits_foreign(text: str, passwords: tuple[str, ...]) -> bool:
    """Whether one of these spellings of a password fits the stored hash; all of them are tried.

    Raises InvalidInput for what is no hash, and argon2's errors.
    """
    parsed = parse_hash(text)
    return any([_fits(parsed, password) for password in passwords])


def _fits(parsed: ForeignHash, password: str) -> bool:
    if isinstance(parsed, Argon2):
        try:
            return _argon2.verify(parsed.text, password)
        except VerifyMismatchError:
            return False
    secret = password.encode()
    if isinstance(parsed, Bcrypt):
        return bcrypt.checkpw(_digested(parsed, secret)[:BCRYPT_BYTES], parsed.text.encode())
    if isinstance(parsed, Scrypt):
        value = hashlib.scrypt(
            secret,
            salt=parsed.salt,
            n=parsed.n,
            r=parsed.r,
            p=parsed.p,
            maxmem=parsed.memory + 1_048_576,
            dklen=len(parsed.value),
        )
    else:
        size = len(parsed.value)
        value = hashlib.pbkdf2_hmac(parsed.digest, secret, parsed.salt, parsed.rounds, size)
    return hmac.compare_digest(value, parsed.value)


def _digested(parsed: Bcrypt, secret: bytes) -> bytes:
    """What bcrypt gets: the password, or a text made of its digest."""
    if parsed.of == "sha256":  # Django's BCryptSHA256PasswordHasher
        return hashlib.sha256(secret).hexdigest().encode()
    if parsed.of == "hmac":  # passlib's bcrypt_sha256, version 2
        salt = parsed.text[_SALT].encode()
        return b64encode(hmac.digest(salt, secret, "sha256"))
    return secret
