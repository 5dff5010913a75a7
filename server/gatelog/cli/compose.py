"""``compose``: the composition as a file, for version control and for machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gatelog.cli.output import json_option, print_json
from gatelog.composer.rules.composition import MAX_COMPOSITION_BYTES
from gatelog.config import Config, variable
from gatelog.errors import NotBuildable, NothingToBuild, OperatorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gatelog.composer.rules.comparing import Change
    from gatelog.composer.rules.composition import Composition
    from gatelog.composer.service.composer import Composer

T = TypeVar("T")
_file = click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
_build = click.option("--build", type=click.IntRange(1), help="An earlier build in its place.")


@click.group()
def compose() -> None:
    """Export, apply and compare what is composed, as a file of TOML."""


@compose.command("export")
@_file
@click.option("--draft", is_flag=True, help="The draft in place of what is live.")
@_build
@click.pass_obj
def export(config: Config, file: Path, draft: bool, build: int | None) -> None:
    """Write what is live to FILE, '-' for standard output."""
    from gatelog.composer.rules.files import write

    if draft and build is not None:
        raise click.UsageError("give --draft or --build, and not both")

    async def work(composer: Composer) -> Composition:
        found = await composer.draft()
        if draft:
            return found.composition
        return await composer.composition(build or found.live)

    text = write(_with_composer(config, "compose export", work))
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {file}: {error.strerror}") from error


@compose.command("apply")
@_file
@json_option
@click.pass_obj
def apply(config: Config, file: Path, as_json: bool) -> None:
    """Make FILE ('-': standard input) the draft, and build it: every worker serves it then."""
    composition = _read(file)

    async def work(composer: Composer) -> tuple[int | None, list[Change]]:
        drafted = await composer.replace(composition)
        try:
            built = await composer.build(seen=drafted.draft.digest)
        except NothingToBuild:
            return None, []
        return built.build, built.changes

    try:
        build, changes = _with_composer(config, "compose apply", work)
    except NotBuildable as error:
        raise OperatorError(f"it cannot be built: {' '.join(error.faults)}") from error
    if as_json:
        print_json({"build": build, "changes": changes})
        return
    _show(changes)
    click.echo("This is live already." if build is None else f"Build {build} is live.")


@compose.command("diff")
@_file
@_build
@json_option
@click.pass_obj
def diff(config: Config, file: Path, build: int | None, as_json: bool) -> int:
    """Show what applying FILE would change; the exit code is 1 where there is a difference."""
    from gatelog.composer.rules.comparing import compare

    composition = _read(file)

    async def work(composer: Composer) -> Composition:
        return await composer.composition(build or (await composer.draft()).live)

    changes = compare(_with_composer(config, "compose diff", work), composition)
    if as_json:
        print_json(changes)
    elif changes:
        _show(changes)
    else:
        click.echo("There is no difference.")
    return 1 if changes else 0


@compose.command("code")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@_build
@click.pass_obj
def code(config: Config, directory: Path, build: int | None) -> None:
    """Write what is live into DIRECTORY, as a project of aiohttp handlers with its tests."""
    from gatelog.composer.rules.code.project import files
    from gatelog.composer.service.projects import put

    async def work(composer: Composer) -> Composition:
        return await composer.composition(build or (await composer.draft()).live)

    made = files(_with_composer(config, "compose code", work))
    put(made, directory)
    for name in made:
        click.echo(f"{directory}/{name}")


def _show(changes: list[Change]) -> None:
    for change in changes:
        click.echo(str(change))


def _read(file: Path) -> Composition:
    from gatelog.composer.rules.files import read

    try:
        with click.open_file(str(file), "rb") as opened:
            text = opened.read(MAX_COMPOSITION_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise OperatorError(f"cannot read {file}: {reason}") from error
    return read(text)


def _with_composer(config: Config, command: str, work: Callable[[Composer], Awaitable[T]]) -> T:
    """Do the work with the composer of the configured database; returns its result.

    What is hosted is loaded, not started: the handlers that it registers are then known.
    """
    from gatelog.cli.services import with_services
    from gatelog.composer.web.surroundings import surroundings
    from gatelog.hosting.mount import find
    from gatelog.hosting.routes import own_resources
    from gatelog.hosting.services import Services

    if config.composer == "off":
        raise OperatorError(f"the composer is off ({variable('composer')})")
    if config.app:
        find(config.app)

    async def composing(services: Services) -> T:
        composer = services.composing.composer
        composer.around = lambda: surroundings(config, own_resources(config))
        return await work(composer)

    return with_services(config, command, composing)
