"""``log tail``: events as they are recorded, for people and for programs that watch over others.

Rules:

- In order and at least once: the cursor, a file, is written after the output was flushed. What
  was printed and not noted before a crash is printed again.
- It waits out a database that is away and says so on standard error. It never starts the
  service's own database: a service that starts later would find it taken.
- A cursor is of one log: of another one, or one that was cut, it says so and stops.
- Nothing is left out without somebody's decision: where it should go on with what was purged, it
  says what is missing and stops.
- Personal fields stay sealed unless they are asked for: what has left cannot be erased any more.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from gatelog.cli.output import json_option
from gatelog.config import Config

if TYPE_CHECKING:
    from gatelog.audit.rules.shown import ShownEvent
    from gatelog.audit.service.export import LogPages
    from gatelog.errors import OperatorError
    from gatelog.log.store.database import Database, PooledConnection
    from gatelog.log.store.follow import Mark
    from gatelog.log.store.reading import StoredEvent

PAGE = 1000
LOOK_EVERY_S = 0.2
RETRY_EVERY_S = 0.5

Personal = Literal["sealed", "open"]
Printed = Callable[[Sequence["StoredEvent"]], Awaitable[bytes]]


def from_option(otherwise: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Where to begin; ``otherwise`` says where it begins without the option."""
    return click.option(
        "--from",
        "first",
        type=click.IntRange(min=1),
        help=f"Begin with this position instead of {otherwise}.",
    )


@click.command("tail")
@from_option("what is recorded from now on")
@click.option(
    "--follow/--no-follow",
    default=True,
    help="Go on as events are recorded, until stopped (the default), or end with the last one.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["ndjson", "cef", "ocsf"]),
    help="Print lines of JSON as the API shows them, of CEF, or of JSON after the OCSF schema.",
)
@click.option(
    "--cursor",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Note in this file how far it got, and go on from there the next time. A new one begins"
    " with the first event, or with --from.",
)
@click.option(
    "--personal",
    type=click.Choice(["sealed", "open"]),
    default="sealed",
    show_default=True,
    help="Leave out logins, addresses and user agents, or open them. What is open here is not"
    " reached by an erasure.",
)
@json_option
@click.pass_obj
def tail(
    config: Config,
    *,
    first: int | None,
    follow: bool,
    form: str | None,
    cursor: Path | None,
    personal: Personal,
    as_json: bool,
) -> None:
    """Print events as they are recorded, until stopped.

    Without --from and --cursor it begins at the end of the log: what is there is left out.
    """
    from gatelog.host.database import dsns, reachable_database
    from gatelog.kinds import register_all

    register_all()
    if not follow and first is None and cursor is None:
        raise click.UsageError("--no-follow needs --from or --cursor: it would print nothing.")
    if as_json and form is not None:
        raise click.UsageError("Give --json or --format.")
    if personal == "open" and form is None:
        raise click.UsageError("--personal open needs a --format.")
    asked = Asked(
        first=first,
        follow=follow,
        form="json" if as_json else form,
        cursor=Cursor(cursor) if cursor is not None else None,
        opened=personal == "open",
    )
    if not follow:
        with reachable_database(config, "log tail") as urls:
            asyncio.run(_tail(config, urls.app, asked))
        return
    with suppress(KeyboardInterrupt):
        asyncio.run(_tail(config, dsns(config).app, asked))


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    first: int | None
    follow: bool
    form: str | None
    cursor: Cursor | None
    opened: bool


async def _tail(config: Config, dsn: str, asked: Asked) -> None:
    from gatelog.audit.service.export import LogPages
    from gatelog.log.store.database import Database
    from gatelog.privacy.service.personal import PersonalData

    database = Database(dsn, timeout_s=config.database_timeout_s, pool_size=2)
    try:
        pages = LogPages(database, PersonalData(config, database))
        await Tail(database, _printed(asked, pages), asked).run()
    finally:
        await database.close()


class Tail:
    """Reads the log on, prints it, and notes how far it got."""

    def __init__(self, database: Database, printed: Printed, asked: Asked) -> None:
        self._database = database
        self._printed = printed
        self._asked = asked
        self._cursor = asked.cursor
        self._mark: Mark | None = None
        self._away = False

    async def run(self) -> None:
        """Print what is there and, if that was asked for, what comes."""
        from gatelog.errors import DatabaseUnavailable, EventsLost, OperatorError

        while True:
            try:
                count = await self._step()
            except DatabaseUnavailable as error:
                if not self._asked.follow:
                    raise
                self._say_once(f"the database does not answer, trying again: {error}")
                await asyncio.sleep(RETRY_EVERY_S)
                continue
            except EventsLost as error:
                if self._cursor is None or not self._cursor.path.exists():  # it was --from, then
                    raise
                raise OperatorError(
                    f"{error} The cursor {self._cursor.path} is of another log, or of this one"
                    " before a backup was restored. Without it, everything is printed again."
                ) from error
            if self._away:
                self._away = False
                _say("the database answers again")
            if count < PAGE and not self._asked.follow:
                return
            if count == 0:
                _see_reader()
                await asyncio.sleep(LOOK_EVERY_S)

    async def _step(self) -> int:
        """Print what is new, a page at most; returns how many events that were."""
        from gatelog.log.store.follow import Beyond, Mark, read_on

        async with self._database.acquire() as connection:
            if self._mark is None:
                self._mark = await self._begin(connection)
            rows = await read_on(connection, self._mark, PAGE)
        if isinstance(rows, Beyond):
            raise self._purged(self._mark.position + 1, rows.first)
        if not rows:
            return 0
        sys.stdout.buffer.write(await self._printed(rows))
        sys.stdout.buffer.flush()
        self._mark = Mark(rows[-1].position, rows[-1].leaf_hash)
        if self._cursor is not None:
            self._cursor.save(self._mark)
        return len(rows)

    async def _begin(self, connection: PooledConnection) -> Mark:
        """Where to begin: at the cursor, at the given position, or at the end of the log."""
        from gatelog.log.store.follow import Mark, read_edges

        noted = self._cursor.load() if self._cursor is not None else None
        if noted is not None:
            return noted
        if self._asked.first is not None:
            return Mark(self._asked.first - 1)
        first, head = await read_edges(connection)
        if self._cursor is None:
            return Mark(head)
        if first > 1:
            _say(f"the log begins with position {first}: what was before it has been purged")
        return Mark(first - 1)

    def _purged(self, wanted: int, first: int) -> OperatorError:
        from gatelog.errors import OperatorError

        without = f"give --from {first}"
        if self._cursor is not None and self._cursor.path.exists():  # it counts more than --from
            without = f"remove the cursor {self._cursor.path} and {without}"
        return OperatorError(
            f"The events {wanted} to {first - 1} were purged before they were read here."
            f" To go on without them, {without}."
        )

    def _say_once(self, what: str) -> None:
        if not self._away:
            _say(what)
        self._away = True


def _say(what: str) -> None:
    click.echo(f"gatelog: {what}", err=True)


def _see_reader() -> None:
    """Raises BrokenPipeError when nobody reads our output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        raise BrokenPipeError


# --- the cursor


class _Noted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    position: int
    leaf_hash: str | None = None


class Cursor:
    """How far was read, in a file: the position, and the hash by which the log is known again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Mark | None:
        """What is noted; None without a file. Raises OperatorError for what is no cursor."""
        from gatelog.errors import OperatorError
        from gatelog.log.store.follow import Mark

        try:
            noted = msgspec.json.decode(self.path.read_bytes(), type=_Noted)
            leaf_hash = None if noted.leaf_hash is None else bytes.fromhex(noted.leaf_hash)
        except FileNotFoundError as error:
            if not self.path.parent.is_dir():  # better told now than after the first events
                raise OperatorError(
                    f"the cursor {self.path} cannot be written: {error.strerror}"
                ) from error
            return None
        except (msgspec.MsgspecError, ValueError) as error:
            raise OperatorError(f"{self.path} is no cursor of this command: {error}") from error
        except OSError as error:
            raise OperatorError(f"{self.path}: {error.strerror}") from error
        if noted.position < 0:
            raise OperatorError(f"{self.path} is no cursor of this command")
        return Mark(noted.position, leaf_hash)

    def save(self, mark: Mark) -> None:
        """Note how far was read: wholly or not at all, whatever breaks down meanwhile."""
        from gatelog.errors import OperatorError

        leaf_hash = None if mark.leaf_hash is None else mark.leaf_hash.hex()
        text = msgspec.json.encode(_Noted(mark.position, leaf_hash)) + b"\n"
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise OperatorError(f"the cursor {self.path} cannot be written: {error}") from error


# --- how an event is printed


def as_row(event: StoredEvent) -> tuple[int, Any, str, Any, str]:
    """An event for people: position, time, type, user, and the rest as words."""
    fields = msgspec.to_builtins(event.event())
    rest = [f"{k}={v}" for k, v in fields.items() if v and k not in _NOT_SHOWN]
    subject = fields.get("subject_id")
    return event.position, event.recorded_at, fields["type"], subject, " ".join(rest)


_NOT_SHOWN = {"type", "v", "event_id", "occurred_at", "subject_id", "token_digest", "sealed"}


def as_stored(event: StoredEvent) -> dict[str, object]:
    """An event for programs; the entry is given as the very bytes that are stored."""
    return {
        "position": event.position,
        "recorded_at": event.recorded_at,
        "leaf_hash": event.leaf_hash.hex(),
        "entry": msgspec.Raw(event.entry),
    }


def _line(event: StoredEvent) -> bytes:
    position, recorded_at, kind, subject, what = as_row(event)
    return f"{position} {recorded_at:%Y-%m-%d %H:%M:%S} {kind} {subject or '-'} {what}\n".encode()


def _printed(asked: Asked, pages: LogPages) -> Printed:
    """What prints events in the format that was asked for."""
    from gatelog.audit.rules import formats
    from gatelog.audit.rules.shown import shown

    form = asked.form

    async def plainly(rows: Sequence[StoredEvent]) -> bytes:
        if form == "json":
            return b"".join(msgspec.json.encode(as_stored(row)) + b"\n" for row in rows)
        return b"".join(map(_line, rows))

    async def shown_in_form(rows: Sequence[StoredEvent]) -> bytes:
        if asked.opened:
            events = [each.shown for each in await pages.opened(rows)]
        else:
            events = [shown(row.position, row.recorded_at, row.event()) for row in rows]
        if form == "ndjson":
            return formats.ndjson(events)
        version = _version()
        one: Callable[[ShownEvent, str], bytes] = formats.cef if form == "cef" else formats.ocsf
        return b"".join(one(event, version) for event in events)

    return plainly if form in (None, "json") else shown_in_form


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gatelog")
    except PackageNotFoundError:  # run from its source
        return "0"
