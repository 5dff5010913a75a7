"""How commands speak: tables for people, JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 200  # columns; a pipe has none of its own

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def limit_option(default: int) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """How much a list shows at most."""
    return click.option(
        "--limit",
        type=click.IntRange(1, 1_000_000),
        default=default,
        show_default=True,
        help="Show at most so many.",
    )


def print_json(content: Any) -> None:
    """One JSON document on one line."""
    click.echo(msgspec.json.encode(content).decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; no cell is cut, long ones are folded."""
    from rich.table import Table

    table = Table(title=f"{title} ({len(rows)})", title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[_cell(value) for value in row])
    console(sys.stdout).print(table)


def console(stream: Any) -> Console:
    """What writes tables, colours and bars to this stream."""
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, highlight=False, markup=False)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value)
    return str(value)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error that is moved by calls of (done, total)."""
    from rich import progress as bar

    columns = (
        *(bar.TextColumn(what), bar.BarColumn()),
        *(bar.MofNCompleteColumn(), bar.TimeRemainingColumn()),
    )
    out = console(sys.stderr)
    with bar.Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def move(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield move
