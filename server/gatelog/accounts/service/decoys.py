"""What the password of nobody costs, where passwords of others were imported.

An imported password costs what its own scheme costs, until its user has logged in: more or less
than ours. If nobody's password always cost what ours do, the time of an answer would tell which
logins exist. So each name that nobody has costs what the hash of somebody might: the schemes are
dealt out to such names as they are among users, by a keyed hash of the name, so that a name always
gets the same one. Rules:

- Counted now and then, beside logins, not for each. As users log in and fewer are left with a
  scheme, fewer names are dealt it: a name that nobody has passes from a scheme to ours as a name
  of somebody does.
- What is left: where several schemes are imported, a few names pass from one to another, which no
  user's does; who sees that has tried the name for days.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from gatelog.accounts.rules.foreign_hashes import is_foreign, parse_hash
from gatelog.accounts.store.users import Credential, Users
from gatelog.errors import GatelogError

COUNTED_EVERY_S = 60.0
_ONE = 1 << 128  # a blind index is a number below it


class Decoys:
    """How foreign schemes are dealt out to names that nobody has."""

    def __init__(self, users: Users, *, clock: Callable[[], float] = monotonic) -> None:
        self._users = users
        self._clock = clock
        self._counted_at: float | None = None
        self._shares: list[tuple[int, str]] = []  # below which number, which cost
        self._counting: asyncio.Task[None] | None = None

    async def counted(self) -> None:
        """Returns when nobody counts beside logins any more."""
        if self._counting is not None:
            await self._counting

    async def refresh(self) -> None:
        """See that it is counted: waited for at first, and later done beside.

        Raises DatabaseUnavailable at first.
        """
        now_s = self._clock()
        if self._counted_at is None:
            await self._count()
        elif now_s - self._counted_at > COUNTED_EVERY_S and self._counting is None:
            self._counting = asyncio.create_task(self._count_again(), name="count costs")

    def cost(self, credential: Credential | None, name: bytes) -> str | None:
        """What it shall cost that no password fits: None for what our own hashes cost.

        ``credential``: whose password is locked; None where there is nobody, but a ``name``, by
        its blind index.
        """
        if credential is not None:
            text = credential.password_hash
            return parse_hash(text).cost if is_foreign(text) else None
        drawn = int.from_bytes(name, "big")
        return next((cost for below, cost in self._shares if drawn < below), None)

    async def _count_again(self) -> None:
        try:
            await self._count()
        except GatelogError:
            self._counted_at = self._clock()  # what was counted is good for a minute more
        finally:
            self._counting = None

    async def _count(self) -> None:
        costs, total = await self._users.costs()
        shares, below = [], 0
        for cost, count in sorted(costs.items()):
            below += count * _ONE // max(total, 1)
            shares.append((below, cost))
        self._shares, self._counted_at = shares, self._clock()

    async def close(self) -> None:
        """Count no more."""
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)
