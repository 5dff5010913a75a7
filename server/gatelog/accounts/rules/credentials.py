"""Logins and passwords as texts: their one spelling, and what a new password must be.

Rules:

- Two spellings of one login are one login: NFKC, outer white space removed, case folded. What
  cannot be seen or told apart (control, format, unassigned and private characters, white space
  inside) is refused.
- A password is NFKC-normalised, so that every keyboard produces the same one, and is otherwise
  left as it is. Every character is allowed but NUL and lone surrogates, which are no text.
- Lengths count characters after normalisation; what is normalised is bounded before.
- An error never quotes what it refuses.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Container

from gatelog.errors import InvalidInput, WeakPassword
from gatelog.text import SHORTEST_WORD, is_storable

MAX_LOGIN_LENGTH = 128
MAX_PASSWORD_LENGTH = 1024

# One character becomes up to 18 under NFKC, and several may become one: a bound for the work.
_MAX_RAW_LOGIN = 4 * MAX_LOGIN_LENGTH
_MAX_RAW_PASSWORD = 4 * MAX_PASSWORD_LENGTH
# Case folding may undo a normalisation; a text that will not settle is refused.
_FOLDING_PASSES = 4
# A password that repeats fewer different characters than this is one of them, typed often.
_SHORTEST_UNIT = 5
# Beside known words there must be as much as the shortest password that anybody may accept has.
_LEAST_BESIDE_WORDS = 8


def normalise_login(text: str) -> str:
    """The one spelling of this login: NFKC, trimmed, case-folded, 1 to 128 characters.

    Applying it again changes nothing. Raises InvalidInput.
    """
    if len(text) > _MAX_RAW_LOGIN:
        raise InvalidInput(f"The login is longer than {MAX_LOGIN_LENGTH} characters.")
    login = _folded(text.strip())
    if not login:
        raise InvalidInput("The login is empty.")
    if len(login) > MAX_LOGIN_LENGTH:
        raise InvalidInput(f"The login is longer than {MAX_LOGIN_LENGTH} characters.")
    # Of the categories, C is what cannot be seen, Z is white space.
    if any(unicodedata.category(char)[0] in "CZ" for char in login):
        raise InvalidInput("The login contains white space or characters that cannot be seen.")
    return login


def _folded(text: str) -> str:
    for _ in range(_FOLDING_PASSES):
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        folded = folded.strip()
        if folded == text:
            return text
        text = folded
    raise InvalidInput("The login has no stable spelling.")


def normalise_password(text: str) -> str:
    """The password that is hashed: NFKC, 1 to 1024 characters. Raises InvalidInput."""
    too_long = f"The password is longer than {MAX_PASSWORD_LENGTH} characters."
    if len(text) > _MAX_RAW_PASSWORD:
        raise InvalidInput(too_long)
    if not is_storable(text):
        raise InvalidInput("The password contains NUL or a lone surrogate.")
    password = unicodedata.normalize("NFKC", text)
    if not password:
        raise InvalidInput("The password is empty.")
    if len(password) > MAX_PASSWORD_LENGTH:
        raise InvalidInput(too_long)
    return password


def check_new_password(
    password: str,
    *,
    login: str,
    min_length: int,
    blocklist: Container[str],
    words: Collection[str] = (),
) -> None:
    """Refuse a password that is short, common, or made of the login or of well-known ``words``.

    NIST SP 800-63B-4, 3.1.1.2: the whole password is compared, not what it contains, with known
    passwords, with the login, with names of the service and with what is derived of them: these
    and little else. Both texts are normalised; ``blocklist`` and ``words`` are case-folded. No
    rules of composition. Raises WeakPassword.
    """
    if len(password) < min_length:
        raise WeakPassword(f"The password needs at least {min_length} characters.")
    folded = password.casefold()
    unit = _repeated_unit(folded)
    if folded in blocklist or unit in blocklist:
        raise WeakPassword("The password is one of the most common ones.")
    if len(unit) < _SHORTEST_UNIT:
        raise WeakPassword("The password repeats very few characters.")
    if unit == login or unit == login[::-1]:
        raise WeakPassword("The password is made of the login.")
    beside = _beside_words(folded, {*words, *_words_of(login)})
    if beside is not None and (len(beside) < _LEAST_BESIDE_WORDS or beside in blocklist):
        raise WeakPassword("The password is the login or names of this service, and little else.")


def _words_of(login: str) -> set[str]:
    """The login and its parts: of an address of mail its name, and the name of its host."""
    parts = {login, *re.split(r"[\W_]+", login)}
    return {part for part in parts if len(part) >= SHORTEST_WORD}


def _beside_words(text: str, words: Collection[str]) -> str | None:
    """What is left of the text without these words, once if it repeats; None if it has none."""
    longest_first = sorted(words, key=len, reverse=True)
    pieces = re.split("|".join(map(re.escape, longest_first)), text) if words else [text]
    return _repeated_unit("".join(pieces)) if len(pieces) > 1 else None


def _repeated_unit(text: str) -> str:
    """The shortest text that gives this one when repeated, perhaps cut off at the end."""
    # The length of the longest proper border, by the failure function of Knuth, Morris, Pratt.
    borders = [0] * len(text)
    for index in range(1, len(text)):
        length = borders[index - 1]
        while length and text[index] != text[length]:
            length = borders[length - 1]
        borders[index] = length + 1 if text[index] == text[length] else 0
    return text[: len(text) - borders[-1]] if text else text
