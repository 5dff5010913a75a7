"""Text that comes from outside."""

from __future__ import annotations


def is_storable(text: str) -> bool:
    """Whether this is text to every system behind us: encodable as UTF-8, without NUL."""
    if text.isascii():
        return "\x00" not in text
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


# A shorter word is in too many innocent passwords to say anything about one.
SHORTEST_WORD = 4
