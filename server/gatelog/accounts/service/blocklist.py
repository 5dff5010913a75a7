"""What a new password must not be: a common one, or made of words that everybody here knows.

Both are there without a network: the list comes with the package, the words with the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from gatelog.config import Config
from gatelog.text import SHORTEST_WORD

PRODUCT = "gatelog"


class CommonPasswords:
    """The common and breached passwords, case-folded (see accounts/common_passwords.md).

    Kept as the text that they come in: a set of them would take eight times the memory, in every
    worker, and a look costs nothing beside the hashing that follows.
    """

    def __init__(self, text: str) -> None:
        self._text = f"\n{text.strip()}\n"

    def __contains__(self, password: object) -> bool:
        return (
            isinstance(password, str)
            and password != ""
            and "\n" not in password
            and f"\n{password}\n" in self._text
        )

    def __len__(self) -> int:
        return self._text.count("\n") - 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._text.strip("\n").split("\n"))


@cache
def common_passwords() -> CommonPasswords:
    """The list that comes with the package."""
    place = files("gatelog.accounts") / "common_passwords.txt"
    return CommonPasswords(place.read_text(encoding="ascii"))


def context_words(config: Config) -> frozenset[str]:
    """The words that everybody who attacks this service would try (NIST SP 800-63B-4, 3.1.1.2).

    The product's name, the roles, the names in the hosts and in the application that are
    configured, and the operator's own (``GATELOG_PASSWORD_WORDS``); case-folded.
    """
    texts = [PRODUCT, *config.role_names, config.app, config.log_origin]
    texts += sorted(config.origins_trusted | config.hosts_returned_to)
    parts = (part for text in texts for part in re.split(r"[\W_]+", text.casefold()))
    named = {part for part in parts if len(part) >= SHORTEST_WORD and part not in _OF_ADDRESSES}
    return config.words_refused | named


_OF_ADDRESSES = frozenset({"http", "https", "localhost"})
