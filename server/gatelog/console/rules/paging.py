"""Where a page of users or sessions goes on: behind the last one, by time and id.

Rules:

- The newest come first, and the key of each never changes: nothing is missed or seen twice while
  others come and go.
- A cursor is text for links. It says when (in microseconds since 1970, UTC) and which id, or a
  position of the log; what it leads to is no secret.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from gatelog.errors import InvalidInput

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 200
CURSOR_PATTERN: Final = "^([0-9]{1,18}\\.[0-9a-f]{32}|[0-9]{1,18})$"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_cursor = re.compile(r"([0-9]{1,18})\.([0-9a-f]{32})", re.ASCII).fullmatch
_position = re.compile(r"[0-9]{1,18}", re.ASCII).fullmatch
_US: Final = timedelta(microseconds=1)


class Key(msgspec.Struct, frozen=True, order=True):
    """What a page is ordered by."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{(self.at - _EPOCH) // _US}.{self.id.hex}"


# Behind everything that there is: a first page begins there. (PostgreSQL knows the year 9999.)
FIRST: Final = Key(datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))


def parse_key(text: str) -> Key:
    """The key in a cursor. Raises InvalidInput."""
    found = _cursor(text)
    if found is None:
        raise InvalidInput("The parameter cursor must be taken from a link.")
    try:
        return Key(_EPOCH + int(found[1]) * _US, UUID(hex=found[2]))
    except OverflowError:
        raise InvalidInput("The parameter cursor must be taken from a link.") from None


def parse_position(text: str) -> int:
    """The position in a cursor. Raises InvalidInput."""
    if _position(text) is None:
        raise InvalidInput("The parameter cursor must be taken from a link.")
    return int(text)
