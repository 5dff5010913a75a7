"""Whose turn it is: a fair queue for work that is dear, like hashing a password.

Rules:

- Who waits stands in the line of a key (a place, a device). Keys take turns, one at a time (round
  robin; Nagle 1987, RFC 970): whoever floods a line delays that line.
- A line is bounded, and so are all lines together. Where all are full, a key that has nobody
  waiting displaces the last one of the longest line, if that has more than one.
- Known devices have lines and a bound of their own and go first; after ``IN_A_ROW`` of them one
  stranger gets a turn, so that nobody waits for ever.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

IN_A_ROW = 4

ItemT = TypeVar("ItemT", bound=Hashable)


class Lane(msgspec.Struct, frozen=True):
    """The line that somebody stands in."""

    key: bytes
    known: bool = False


class _Lines(Generic[ItemT]):
    """The lines of one class, the one whose turn is next first."""

    def __init__(self, *, of_a_line: int, in_all: int) -> None:
        self.waiting = 0
        self._of_a_line = of_a_line
        self._in_all = in_all
        self._lines: OrderedDict[bytes, deque[ItemT]] = OrderedDict()

    def offer(self, item: ItemT, key: bytes) -> tuple[bool, ItemT | None]:
        line = self._lines.get(key, ())
        if len(line) >= self._of_a_line:
            return False, None
        displaced = None
        if self.waiting >= self._in_all:
            longest = max(self._lines.values(), key=len)
            if line or len(longest) < 2:
                return False, None
            displaced = longest.pop()
            self.waiting -= 1
        self._lines.setdefault(key, deque()).append(item)
        self.waiting += 1
        return True, displaced

    def take(self) -> ItemT:
        key, line = self._lines.popitem(last=False)
        item = line.popleft()
        if line:
            self._lines[key] = line  # behind all others
        self.waiting -= 1
        return item

    def withdraw(self, item: ItemT, key: bytes) -> None:
        line = self._lines.get(key)
        if line is not None and item in line:
            line.remove(item)
            self.waiting -= 1
            if not line:
                del self._lines[key]


class FairQueue(Generic[ItemT]):
    """Who waits for a turn. ``of_a_line`` and ``in_all``: how many may, for each class."""

    def __init__(self, *, of_a_line: int, in_all: int) -> None:
        if not 1 <= of_a_line <= in_all:
            raise ValueError("a line holds at least one, and no more than all lines")
        self._known: _Lines[ItemT] = _Lines(of_a_line=of_a_line, in_all=in_all)
        self._strangers: _Lines[ItemT] = _Lines(of_a_line=of_a_line, in_all=in_all)
        self._in_a_row = 0

    def waiting(self, *, known: bool) -> int:
        """How many of this class wait."""
        return self._class(known).waiting

    def offer(self, item: ItemT, lane: Lane) -> tuple[bool, ItemT | None]:
        """Stand in line. Says whether there was room, and who had to go for it, if anybody had."""
        return self._class(lane.known).offer(item, lane.key)

    def take(self, *, strangers: bool = True) -> ItemT | None:
        """Whose turn it is; None when nobody waits. ``strangers``: whether one may have it."""
        stranger_waits = strangers and self._strangers.waiting > 0
        if self._known.waiting and not (stranger_waits and self._in_a_row >= IN_A_ROW):
            self._in_a_row += 1
            return self._known.take()
        if not stranger_waits:
            return None
        self._in_a_row = 0
        return self._strangers.take()

    def withdraw(self, item: ItemT, lane: Lane) -> None:
        """Leave the line; nothing happens if it is not there any more."""
        self._class(lane.known).withdraw(item, lane.key)

    def _class(self, known: bool) -> _Lines[ItemT]:
        return self._known if known else self._strangers
