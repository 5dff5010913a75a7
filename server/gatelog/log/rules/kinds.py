"""Kinds of state: what commands are decided on, and how events change it.

Each room has its kinds (sessions, users, …) and registers them (``gatelog.kinds`` does it for all
rooms); the log knows none of them. Rules:

- A command says what it needs to be decided on (``needs``), and decides (``decide``) on a world
  that holds it. It is decided under the lock of the log's head, so the world is the truth at that
  moment. Times, ids, digests and hashes come with the command.
- An event reaches the kinds that it concerns (``State.concerns``), and no other.
- What does not follow from the log but is written with it (a password's hash, a wrapped key) is
  ``beside`` the events of a decision, and enters the world after them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import ClassVar, TypeVar
from uuid import UUID

import msgspec

from gatelog.log.rules.events import Event


class Trace(msgspec.Struct, frozen=True):
    """What the events of a command can be found by, besides what stands in their columns.

    The log hands it on, and the kinds of state that keep such things know what is in it.
    """


class State(ABC):
    """The part of one kind of state that a batch is decided on, and what the batch changes of it.

    Made empty, where nothing of it was needed.
    """

    concerns: ClassVar[tuple[type[Event], ...]] = ()

    @abstractmethod
    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        """Take in an event that concerns this kind. Raises LogDamaged for one that cannot be.

        ``trace``: what the caller gave to find the events of this command by, if anything.
        """


StateT = TypeVar("StateT", bound=State)


class Need(msgspec.Struct, frozen=True):
    """A part of the state that a command is decided on."""


class Beside(msgspec.Struct, frozen=True):
    """What a decision writes beside the log, in the same transaction."""

    def enter(self, world: World) -> None:
        """Give it to the kind of state that it belongs to."""
        raise NotImplementedError


class Decision(msgspec.Struct, frozen=True):
    """The events, in order, and what must be written beside the log in the same transaction."""

    events: tuple[Event, ...] = ()
    beside: tuple[Beside, ...] = ()


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked for.

    A command that carries a finished event (``event``) is answered with that very object where it
    is allowed, so that its bytes, made before the lock was taken, can be used.
    """

    @property
    def prepared(self) -> Event | None:
        """The finished event that the command carries, if it does."""
        return None

    @property
    def first_event_id(self) -> UUID:
        """The id of the first event that the command may cause; all its ids derive from it."""
        if self.prepared is None:
            raise NotImplementedError
        return self.prepared.event_id

    def needs(self) -> Iterable[Need]:
        """What it is decided on."""
        return ()

    def decide(self, world: World) -> Decision:
        """The events that it causes in this world. Raises a GatelogError to refuse."""
        raise NotImplementedError


class World:
    """What a batch of commands is decided on, kept current as it goes.

    ``now`` is what the clock of the log says: the one for what depends on time and is recorded.
    """

    def __init__(self, *states: State, now: datetime | None = None) -> None:
        self._states: dict[type[State], State] = {type(state): state for state in states}
        self._now = now

    @property
    def now(self) -> datetime:
        """When the batch is decided. Raises RuntimeError where nobody has said."""
        if self._now is None:
            raise RuntimeError("nobody has said what time it is")
        return self._now

    @now.setter
    def now(self, moment: datetime) -> None:
        self._now = moment

    def __iter__(self) -> Iterator[State]:
        return iter(self._states.values())

    def of(self, kind: type[StateT]) -> StateT:
        """The state of this kind."""
        state = self._states.get(kind)
        if state is None:
            state = self._states[kind] = kind()
        return state  # type: ignore[return-value]  # it stands under its own type

    def apply(self, event: Event, position: int = 0, trace: Trace | None = None) -> None:
        """Take the event in, and let every kind know that it concerns."""
        for kind in concerned(type(event)):
            self.of(kind).apply(event, position, trace)

    def take(self, decision: Decision) -> None:
        """Take in all that was decided, where it is of no interest at which position."""
        for event in decision.events:
            self.apply(event)
        for beside in decision.beside:
            beside.enter(self)


_registered: dict[type[State], None] = {}


def register_states(*kinds: type[State]) -> None:
    """Let these kinds know of the events that concern them."""
    _registered.update(dict.fromkeys(kinds))
    concerned.cache_clear()


@lru_cache(maxsize=1024)
def concerned(event_type: type[Event]) -> tuple[type[State], ...]:
    """The registered kinds of state that an event of this type concerns."""
    return tuple(kind for kind in _registered if issubclass(event_type, kind.concerns))
