"""Where new tokens come from."""

from __future__ import annotations

import secrets

from gatelog.sessions.rules.tokens import (
    TOKEN_BYTES,
    machine_token_from_random,
    token_from_random,
)


def new_token() -> str:
    """The token of a session."""
    return token_from_random(secrets.token_bytes(TOKEN_BYTES))


def new_machine_token() -> str:
    """The token of a machine."""
    return machine_token_from_random(secrets.token_bytes(TOKEN_BYTES))
