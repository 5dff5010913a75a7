"""Hashing passwords beside the event loop.

Rules:

- In a bounded pool of threads of lower priority: argon2 lets go of the interpreter's lock, and the
  kernel gives the core to the event loop first. Nothing but argon2id is made here; what came from
  elsewhere is verified by its own scheme, and is due to be made anew.
- What would wait behind a full queue is refused at once (HashingFull), before any work is done.
  Whose turn it is, is decided before (``accounts.service.turns``).
- A user who does not exist costs what a wrong password costs: the same call, on a hash that no
  password fits. What that hash costs where there are foreign ones, others say
  (``accounts.service.decoys``).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import argon2
from argon2.exceptions import HashingError, VerificationError, VerifyMismatchError
from prometheus_client import Counter, Histogram

from gatelog.accounts.rules.foreign_hashes import is_foreign, nothing_like
from gatelog.accounts.service.foreign_hashes import fits_foreign
from gatelog.config import Config
from gatelog.errors import HashingFull, InvalidInput, Unavailable
from gatelog.spans import span

NICENESS = 15  # measured: the same throughput, a third of the harm to other requests
_SALT_BYTES = 16
_HASH_BYTES = 32
_DRAWN_BYTES = 64

T = TypeVar("T")

HASHING_TIME = Histogram(
    "gatelog_password_hashing_seconds",
    "How long who hands in a password waited for its hash, in the queue and for the work.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
HASHING_REFUSED = Counter(
    "gatelog_password_hashing_refused_total", "Passwords refused because the queue was full."
)


class PasswordPool:
    """Hashes and verifies passwords with the configured argon2id parameters."""

    def __init__(self, config: Config) -> None:
        self._hasher = argon2.PasswordHasher(
            time_cost=config.argon2_time_cost,
            memory_cost=config.argon2_memory_kib,
            parallelism=config.argon2_parallelism,
            hash_len=_HASH_BYTES,
            salt_len=_SALT_BYTES,
            type=argon2.Type.ID,
        )
        self._config = config
        self._nobody = self.fits_nothing()
        self.threads = config.hashing_threads or max(1, (os.cpu_count() or 1) - 1)
        self._inside = 0
        self._threads = ThreadPoolExecutor(self.threads, "password", initializer=_lower_priority)
        self._places = threading.BoundedSemaphore(self.threads + config.hashing_queue)

    def fits_nothing(self) -> str:
        """An encoded hash of the configured cost whose value was drawn, not computed."""
        return _hash_of_no_password(self._config)

    async def hash(self, password: str) -> str:
        """The encoded hash of this (normalised) password, with a fresh salt.

        Raises HashingFull, or Unavailable when argon2 gets no memory.
        """
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(
        self,
        password_hash: str | None,
        password: str,
        *,
        typed: str | None = None,
        cost: str | None = None,
    ) -> bool:
        """Whether the password fits the hash. None, for an unknown user: as slow, and False.

        ``typed``: how it was handed in, before it was normalised, which other systems did not do.
        ``cost``: of which foreign hash the slowness is, if of one. Raises HashingFull, or
        Unavailable when there is no memory, or nothing that can be verified.
        """
        if password_hash is None:
            random = secrets.token_bytes(_DRAWN_BYTES)
            password_hash = nothing_like(cost, random) if cost is not None else self._nobody
        text, spellings = password_hash, tuple(dict.fromkeys((typed or password, password)))
        return await self._run(lambda: self._fits(text, password, spellings))

    @property
    def waiting(self) -> int:
        """How many passwords wait for a thread now."""
        return max(0, self._inside - self.threads)

    def needs_rehash(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than the configured ones."""
        return is_foreign(password_hash) or self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Stop the threads; what waits is cancelled, what runs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fits(self, password_hash: str, password: str, spellings: tuple[str, ...]) -> bool:
        if is_foreign(password_hash):
            return fits_foreign(password_hash, spellings)
        try:
            return self._hasher.verify(password_hash, password)
        except VerifyMismatchError:
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            HASHING_REFUSED.inc()
            raise HashingFull()
        try:
            future = self._threads.submit(work)
        except RuntimeError as error:
            self._places.release()
            raise Unavailable("The service stops.") from error
        # A caller who goes away frees a waiting place at once, a working thread when it is done.
        future.add_done_callback(self._leave)
        self._inside += 1
        try:
            with HASHING_TIME.time(), span("hash password"):
                return await asyncio.wrap_future(future)
        except (HashingError, VerificationError, InvalidInput, MemoryError) as error:
            raise Unavailable("The password cannot be hashed now.") from error
        finally:
            self._inside -= 1

    def _leave(self, _: Future[T]) -> None:
        self._places.release()


def _hash_of_no_password(config: Config) -> str:
    """An encoded hash of the configured cost whose value was drawn, not computed."""
    salt, value = (
        b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()
        for size in (_SALT_BYTES, _HASH_BYTES)
    )
    costs = (
        f"m={config.argon2_memory_kib},t={config.argon2_time_cost},p={config.argon2_parallelism}"
    )
    return f"$argon2id$v=19${costs}${salt}${value}"


def _lower_priority() -> None:
    """Make the calling thread nicer; where threads have no priority of their own, nothing."""
    with suppress(OSError):
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(nice, NICENESS))
