"""``user import``: users of another system, with the hashes of their passwords.

Rules:

- A file is read as it goes, never as a whole.
- A thousand lines become users together or not at all. Whoever was stopped runs it again: who is
  there already is refused as such, and nothing else happens to them.
- Every line that did not become a user is told, with its number and why; a hash is never told.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

import click
import msgspec

from gatelog.cli.output import json_option, print_json, print_table, progress_bar
from gatelog.config import Config
from gatelog.errors import OperatorError

if TYPE_CHECKING:
    from gatelog.accounts.rules.importing import Foreigner
    from gatelog.host.database import Dsns

MAX_LINE_CHARS = 16_384
MOST_SHOWN = 20
FIELDS = ("login", "hash", "roles", "disabled")
_TRUE, _FALSE = {"true", "1", "yes", "t"}, {"false", "0", "no", "f", ""}
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}

Line = tuple[int, "Foreigner | str", str]  # number; the user, or why there is none; the login


class Refused(msgspec.Struct, frozen=True):
    """A line that did not become a user."""

    line: int
    login: str
    reason: str


class Report(msgspec.Struct):
    """What came of a file; ``refused`` by reason."""

    imported: int = 0
    refused: dict[str, int] = {}


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl"]),
    help="What the file is, where its name does not say: JSON lines, or CSV with a head line.",
)
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path),
    help="Write every line that is refused into this file, as JSON lines.",
)
@json_option
@click.pass_obj
def import_users(
    config: Config,
    *,
    file: Path,
    form: Literal["csv", "jsonl"] | None,
    report_file: Path | None,
    as_json: bool,
) -> int:
    """Add users of another system, with the hashes of their passwords.

    FILE has 'login' and 'hash', and may have 'roles' and 'disabled'; '-' is standard input. Hashes
    are argon2, bcrypt, scrypt or PBKDF2, as Django and passlib write them; at the first login each
    becomes argon2id. A thousand lines become users together or not at all. Run it again after an
    interruption: who is there already is refused, and stays as they are. Exits with 1 where a line
    was refused for another reason.
    """
    from gatelog.accounts.service.importing import TAKEN

    chosen = form or _FORMATS.get(file.suffix.lower())
    if chosen is None:
        raise OperatorError("say what the file is: --format csv, or --format jsonl")
    shown: list[Refused] = []
    with ExitStack() as stack:
        try:
            source = stack.enter_context(_opened(file))
            out = None
            if report_file is not None:
                descriptor = os.open(report_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                out = stack.enter_context(os.fdopen(descriptor, "wb"))
        except OSError as error:
            raise OperatorError(f"cannot open {error.filename}: {error.strerror}") from error

        def refuse(refused: Refused) -> None:
            if len(shown) < MOST_SHOWN:
                shown.append(refused)
            if out is not None:
                out.write(msgspec.json.encode(refused) + b"\n")

        lines = _csv_lines(source) if chosen == "csv" else _json_lines(source)
        report = _import(config, source, lines, refuse)
    _print(report, shown, as_json=as_json)
    return 1 if set(report.refused) - {TAKEN} else 0


def _print(report: Report, shown: list[Refused], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    click.echo(f"Users imported: {report.imported}.")
    for reason, count in sorted(report.refused.items()):
        click.echo(f"Refused: {count}. {reason}")
    if shown:
        rows = [(refused.line, refused.login, refused.reason) for refused in shown]
        print_table("The first lines refused", ["line", "login", "reason"], rows)


# --- the work


def _import(
    config: Config, source: TextIO, lines: Iterator[Line], refuse: Callable[[Refused], None]
) -> Report:
    from gatelog.host.database import reachable_database

    with reachable_database(config, "user import") as urls, progress_bar("import") as progress:
        return asyncio.run(_work(config, urls, _File(source, lines, refuse, progress)))


class _File(msgspec.Struct, frozen=True):
    """What is read, and who is told of it on the way."""

    source: TextIO
    lines: Iterator[Line]
    refuse: Callable[[Refused], None]
    progress: Callable[[int, int], None]


async def _work(config: Config, urls: Dsns, file: _File) -> Report:
    from gatelog.accounts.rules.importing import MOST_AT_ONCE
    from gatelog.hosting.services import open_services

    report, reasons, size = Report(), Counter[str](), _size(file.source)

    def note(refused: Refused) -> None:
        reasons[refused.reason] += 1
        file.refuse(refused)

    async with open_services(config, urls.app) as services:
        while part := list(islice(file.lines, MOST_AT_ONCE)):
            users: list[tuple[int, Foreigner]] = []
            for number, found, login in part:
                if isinstance(found, str):
                    note(Refused(number, login, found))
                else:
                    users.append((number, found))
            refusals = await services.accounts.importing.import_users([user for _, user in users])
            for refusal in refusals:
                number, user = users[refusal.index]
                note(Refused(number, user.login[:128], refusal.reason))
            report.imported += len(users) - len(refusals)
            if size:
                file.progress(min(_place(file.source), size), size)
    report.refused = dict(reasons)
    return report


def _opened(file: Path) -> TextIO:
    if str(file) == "-":
        return open(sys.stdin.fileno(), encoding="utf-8-sig", newline="", closefd=False)
    return file.open(encoding="utf-8-sig", newline="")


def _size(source: TextIO) -> int:
    """How many bytes there are to read; 0 for a stream, which does not say."""
    try:
        return os.fstat(source.fileno()).st_size
    except OSError:
        return 0


def _place(source: TextIO) -> int:
    try:
        return source.buffer.tell()
    except OSError:
        return 0


# --- the formats


def _texts(source: TextIO) -> Iterator[str]:
    """The lines of the file. Raises OperatorError for what is no text."""
    number = 0
    try:
        while line := source.readline(MAX_LINE_CHARS):
            number += 1
            if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
                raise OperatorError(f"line {number}: it is longer than {MAX_LINE_CHARS} characters")
            yield line
    except UnicodeDecodeError as error:
        raise OperatorError(f"after line {number}: it is not UTF-8") from error


def _json_lines(source: TextIO) -> Iterator[Line]:
    from gatelog.accounts.rules.importing import Foreigner

    decode = msgspec.json.Decoder(Foreigner).decode
    for number, line in enumerate(_texts(source), start=1):
        if not line.strip():
            continue
        try:
            found = decode(line)
            yield number, found, found.login
        except msgspec.DecodeError as error:
            yield number, f"It is no user: {error}.", _login_of(line)


def _login_of(line: str) -> str:
    """The login in a line that is otherwise unusable, as far as there is one."""
    try:
        found = json.loads(line)
        return str(found.get("login", ""))[:128] if isinstance(found, dict) else ""
    except (ValueError, RecursionError):
        return ""


def _csv_lines(source: TextIO) -> Iterator[Line]:
    reader = csv.reader(_texts(source), strict=True)
    try:
        head = [name.strip().lower() for name in next(reader, [])]
        unknown = [name for name in head if name not in FIELDS]
        if unknown or len(set(head)) != len(head) or not {"login", "hash"} <= set(head):
            raise OperatorError(
                "the head line must name login and hash, and may name roles and disabled, and"
                f" nothing else; it is: {','.join(head)[:200]!r}"
            )
        for row in reader:
            if row:
                yield _csv_line(reader.line_num, head, row)
    except csv.Error as error:
        raise OperatorError(f"line {reader.line_num}: it is no CSV: {error}") from error


def _csv_line(number: int, head: list[str], row: list[str]) -> Line:
    from gatelog.accounts.rules.importing import Foreigner

    fields = dict(zip(head, row, strict=False))
    login = fields.get("login", "")
    if len(row) != len(head):
        return number, f"It has {len(row)} fields, and the head line {len(head)}.", login[:128]
    disabled = fields.get("disabled", "").strip().lower()
    if disabled not in _TRUE | _FALSE:
        return number, "Whether it is disabled is neither true nor false.", login[:128]
    roles = tuple(fields.get("roles", "").replace(";", " ").split())
    return number, Foreigner(login, fields["hash"].strip(), roles, disabled in _TRUE), login
