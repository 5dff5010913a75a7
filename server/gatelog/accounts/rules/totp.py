"""One-time passwords by time (TOTP, RFC 6238): SHA-1, six digits, a step of 30 seconds.

These are what all authenticator programs can do. Rules:

- A code is good for its own step, and for the one before and the one after: clocks differ, and
  typing takes time (RFC 6238, section 5.2).
- All of these are compared, in constant time, whichever fits.
- A seed has 160 bits (RFC 4226, section 4, R6).
"""

from __future__ import annotations

import hmac
import re
from base64 import b32encode
from datetime import datetime

import pyotp

STEP_S = 30
DIGITS = 6
SEED_BYTES = 20
SKEW_STEPS = 1

_is_code = re.compile(r"[0-9]{6}", re.ASCII).fullmatch


def step_at(now: datetime) -> int:
    """The time step of a moment (UTC)."""
    return int(now.timestamp()) // STEP_S


def code_of(seed: bytes, step: int) -> str:
    """The code of this step."""
    return _totp(seed).generate_otp(step)


def matching_step(seed: bytes, code: str, now: datetime) -> int | None:
    """The step whose code this is, of those that are good now (UTC); None: it is wrong.

    White space in it does not matter: programs show codes in two halves.
    """
    code = "".join(code.split())
    if not _is_code(code):
        return None
    found, current = None, step_at(now)
    for step in range(current - SKEW_STEPS, current + SKEW_STEPS + 1):
        if hmac.compare_digest(code_of(seed, step), code):
            found = step
    return found


def written(seed: bytes) -> str:
    """The seed as people type it: base32 (RFC 4648, section 6), without padding."""
    return b32encode(seed).decode().rstrip("=")


def key_uri(seed: bytes, account: str, issuer: str) -> str:
    """What the QR code says: ``otpauth://totp/…`` (Google Authenticator, Key URI Format)."""
    return _totp(seed).provisioning_uri(name=account, issuer_name=issuer)


def _totp(seed: bytes) -> pyotp.TOTP:
    return pyotp.TOTP(written(seed), digits=DIGITS, interval=STEP_S)
