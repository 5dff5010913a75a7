"""The live tail of the log: read once by each worker, handed to everybody who follows it.

One task reads what is new and opens what is personal, once for each event, and gives it to all
streams. A stream that begins further back reads pages of its own until it has caught up with the
task. Rules:

- Nothing is missed and nothing comes twice: positions are dense, a stream joins the task at a
  position, and a log that does not go on where it ended ends every stream.
- A stream holds a bounded number of events that its reader has not taken. Who reads too slowly is
  cut off, and can go on later from the last position that arrived.
- What was opened is not kept: of a person who is erased, what waits to be read is sealed again as
  soon as the task has read of it, a moment (``LOOK_EVERY_S``) after the erasure.
- A stream ends with the session that asked for it, as soon as the task has read of that. That the
  session is active is for the caller to ask before anything is shown.
- The task runs while there are streams, and waits for none of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from uuid import UUID

from gatelog.audit.rules.events import AuditRead
from gatelog.audit.rules.formats import sse
from gatelog.audit.rules.shown import AuditFilter, ShownEvent
from gatelog.audit.service.export import LogPages, Opened
from gatelog.config import Config
from gatelog.errors import (
    DatabaseUnavailable,
    GatelogError,
    InvalidInput,
    LogDamaged,
    Overloaded,
    Purged,
    Unavailable,
)
from gatelog.log.store.database import Database
from gatelog.log.store.follow import Beyond, Mark, read_edges, read_on
from gatelog.log.store.reading import StoredEvent
from gatelog.privacy.rules import UserErased, is_within
from gatelog.sessions.rules.events import SessionEnded

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1  # for new events, when there were none
RETRY_EVERY_S = 0.5  # while the database is away
PAGE = 250  # events, in one reading
HANDED_OUT = 500  # events, at once to one reader
CATCHING_UP = 2  # streams that read pages of their own at a time
WOKEN_AT_ONCE = 16  # readers, before others get a turn
COME_AGAIN_S = 5


class Frame:
    """One event as it goes to readers, and how it looks when nothing in it is opened."""

    __slots__ = ("_sealed", "data", "is_read", "person", "position")

    def __init__(self, opened: Opened, encode: Callable[[ShownEvent], bytes]) -> None:
        self.position: Final = opened.shown.position
        self.person: Final = opened.person
        self.is_read: Final = opened.shown.type == _AUDIT_READ
        self.data = encode(opened.shown)
        self._sealed = encode(opened.sealed()) if opened.person is not None else self.data

    def seal(self) -> None:
        """Show nothing any more of whose event it is."""
        self.data = self._sealed


class Stream:
    """What one reader follows; made by ``Follower.open``, and to be closed."""

    def __init__(self, follower: Follower, wanted: AuditFilter, session_id: UUID | None) -> None:
        self._follower = follower
        self.wanted = wanted
        self.session_id = session_id
        self.position = 0  # everything up to here has been handed out, or is not wanted
        self.ended = False
        self.on_end: Callable[[], None] | None = None
        self._joined: int | None = None  # from here on the task fills the queue
        self._queue: deque[Frame] = deque()
        self._seen = 0  # how far the task has read for this stream
        self._held: list[Frame] = []
        self._woken = asyncio.Event()

    # --- what the reader does

    async def next(self, within_s: float) -> list[Frame]:
        """What comes next, in order; nothing if there is nothing within so many seconds.

        An empty list after ``ended`` has become true is the end. Raises Purged when a purge
        overtakes it while it catches up, Unavailable.
        """
        self._held = []
        deadline = asyncio.get_running_loop().time() + within_s
        while not self.ended:
            if self.is_behind():
                self._held = await self._catch_up()
            else:
                self._take()
            if self._held or not await self._more(deadline):
                break
        return [] if self.ended else self._held

    def is_behind(self) -> bool:
        """Whether there is something between this stream and its queue; joins it if not."""
        if self._joined is None and self.position >= self._follower.position:
            self._join()
        return self._joined is None or self.position < self._joined

    def _join(self) -> None:
        self._joined = self._seen = max(self.position, self._follower.position)

    async def _catch_up(self) -> list[Frame]:
        """A page of what lies between; the last one is read while the queue fills already."""
        async with self._follower.catching_up:
            if self._joined is None and self._follower.position - self.position <= PAGE:
                self._join()
            upto = self._follower.position if self._joined is None else self._joined
            frames, self.position = await self._follower.page(self.wanted, self.position, upto)
        return frames

    def _take(self) -> None:
        take = min(len(self._queue), HANDED_OUT)
        self._held = [self._queue.popleft() for _ in range(take)]
        self.position = self._held[-1].position if self._queue else max(self.position, self._seen)

    async def _more(self, deadline: float) -> bool:
        """Wait until there may be something; false when there is not before this moment."""
        if self.is_behind():
            return asyncio.get_running_loop().time() < deadline
        self._woken.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True

    # --- what the task does

    def hand(self, frames: Sequence[Frame], events: Sequence[ShownEvent]) -> bool:
        """Put what is wanted of a page into the queue; returns whether the reader shall wake."""
        if self._joined is None or self.ended:
            return False
        wanted: Iterable[Frame] = frames
        if self._seen >= frames[0].position or _chooses(self.wanted):
            wanted = [
                frame
                for frame, event in zip(frames, events, strict=True)
                if frame.position > self._seen and fits(self.wanted, event)
            ]
        self._seen = max(self._seen, frames[-1].position)
        before = len(self._queue)
        self._queue.extend(wanted)
        if len(self._queue) > self._follower.buffer:
            logger.info("a reader of the stream of events was too slow and is cut off")
            self.end()
            return False
        return len(self._queue) > before

    def wake(self) -> None:
        self._woken.set()

    def forget(self, person: UUID) -> None:
        """Seal again what waits and was opened of this person."""
        for frame in (*self._queue, *self._held):
            if frame.person == person:
                frame.seal()

    def end(self) -> None:
        """No more comes. What was not taken is dropped."""
        if self.ended:
            return
        self.ended = True
        self._queue.clear()
        self._woken.set()
        if self.on_end is not None:
            self.on_end()

    def close(self) -> None:
        """The reader has gone: leave the follower."""
        self.end()
        self._follower.leave(self)


def _chooses(wanted: AuditFilter) -> bool:
    return bool(
        wanted.user
        or wanted.session
        or wanted.types
        or wanted.address
        or wanted.network
        or wanted.login
    )


def fits(wanted: AuditFilter, event: ShownEvent) -> bool:
    """Whether a new event is wanted. Time and page say nothing about what is new."""
    return (
        (wanted.user is None or event.user_id == wanted.user)
        and (wanted.session is None or event.session_id == wanted.session)
        and (not wanted.types or event.type in wanted.types)
        and (wanted.address is None or event.address == wanted.address)
        and (wanted.network is None or is_within(event.address, wanted.network))
        and (wanted.login is None or event.login == wanted.login)
    )


class Follower:
    """Follows the log for all streams of this process."""

    def __init__(self, config: Config, database: Database, pages: LogPages) -> None:
        self._database = database
        self._pages = pages
        self._limit = config.streams
        self.buffer = config.stream_buffer
        self.position = 0  # how far the task has read
        self._leaf_hash: bytes | None = None
        self.catching_up = asyncio.Semaphore(CATCHING_UP)
        self._streams: set[Stream] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._erasures = 0  # that were read of

    async def open(
        self, wanted: AuditFilter, after: int | None, session_id: UUID | None = None
    ) -> Stream:
        """A stream of what is wanted after this position; None: from the end of the log on.

        Raises Overloaded beyond the limit, Purged for a beginning that is not there any
        more, InvalidInput for a position that the log has not reached, Unavailable.
        """
        if self._closed:
            raise Unavailable("The service stops.")
        if len(self._streams) >= self._limit:
            raise Overloaded("There are too many streams already.", retry_after_s=COME_AGAIN_S)
        stream = Stream(self, wanted, session_id)
        self._streams.add(stream)
        try:
            async with self._database.acquire() as connection:
                first, head = await read_edges(connection)
            if after is not None and after > head:
                raise InvalidInput(f"The log has not reached position {after}.")
            if after is not None and after + 1 < first:
                raise Purged(f"The log begins with position {first}.")
            stream.position = head if after is None else after
            self._follow_from(head)
            stream.is_behind()  # if it is not, it joins now
        except BaseException:
            stream.close()
            raise
        return stream

    def _follow_from(self, head: int) -> None:
        if self._closed:
            raise Unavailable("The service stops.")
        if self._task is None:
            self.position, self._leaf_hash = head, None
            self._task = asyncio.create_task(self._run(), name="follow")

    def leave(self, stream: Stream) -> None:
        self._streams.discard(stream)
        if not self._streams and self._task is not None:
            self._task.cancel()
            self._task = None

    async def close(self) -> None:
        """End all streams, and open no more."""
        self._closed = True
        self._end(self._streams)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _end(self, streams: Iterable[Stream]) -> None:
        for stream in list(streams):
            stream.end()

    # --- reading

    async def page(self, wanted: AuditFilter, after: int, upto: int) -> tuple[list[Frame], int]:
        """Some of what is wanted, and how far that reaches.

        If somebody is erased meanwhile it is read once more: what was opened may be of them.
        """
        while True:
            erasures = self._erasures
            page = await self._pages.read(wanted, after, upto, PAGE)
            opened = await self._pages.opened(page.events)
            if erasures == self._erasures:
                return [Frame(each, sse) for each in opened], page.reached

    async def _run(self) -> None:
        """Follow the log until cancelled, or until it cannot be followed: then all streams end."""
        try:
            while True:
                try:
                    full = await self._step()
                except DatabaseUnavailable as error:
                    logger.warning("the stream of events waits for the database: %s", error)
                    await asyncio.sleep(RETRY_EVERY_S)
                    continue
                await asyncio.sleep(0 if full else LOOK_EVERY_S)
        except GatelogError as error:
            logger.error("the streams of events end: %s", error)
        except Exception as error:
            logger.error("the streams of events end: %s", type(error).__name__)
            raise
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._end(self._streams)

    async def _step(self) -> bool:
        """Hand out what is new; returns whether there may be more already. Raises LogDamaged."""
        async with self._database.acquire() as connection:
            rows = await read_on(connection, Mark(self.position, self._leaf_hash), PAGE)
        if isinstance(rows, Beyond):
            raise LogDamaged("events were purged before they were read")
        if not rows:
            return False
        await self._hand_out(rows)
        return len(rows) == PAGE

    async def _hand_out(self, rows: Sequence[StoredEvent]) -> None:
        opened = await self._pages.opened(rows)
        frames = [Frame(each, sse) for each in opened]
        events = [each.shown for each in opened]
        for event in events:
            if event.type == _SESSION_ENDED:
                self._end(s for s in self._streams if s.session_id == event.session_id)
            elif event.type == _USER_ERASED and event.user_id is not None:
                self._erasures += 1
                for stream in self._streams:
                    stream.forget(event.user_id)
        self.position, self._leaf_hash = rows[-1].position, rows[-1].leaf_hash
        woken = [stream for stream in self._streams if stream.hand(frames, events)]
        for start in range(0, len(woken), WOKEN_AT_ONCE):
            for stream in woken[start : start + WOKEN_AT_ONCE]:
                stream.wake()
            await asyncio.sleep(0)


_AUDIT_READ = str(AuditRead.__struct_config__.tag)
_SESSION_ENDED = str(SessionEnded.__struct_config__.tag)
_USER_ERASED = str(UserErased.__struct_config__.tag)
