"""``log verify``, ``log export-proofs`` and ``log key``: the log as proof.

The exit code of ``verify`` is 0 only if everything fits; otherwise the first position that does
not is named.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gatelog.cli.output import console, json_option, print_json, print_table, progress_bar
from gatelog.config import Config
from gatelog.errors import MalformedProof, NotVerified, OperatorError

if TYPE_CHECKING:
    from gatelog.proofs.rules.notes import Verifier
    from gatelog.proofs.service.sources import Report, SignedNote
    from gatelog.proofs.service.verify import Progress

MAX_FILE_BYTES = 4_000_000

key_option = click.option(
    "--key",
    "key",
    metavar="KEY",
    help="The log's verifier key, or a file that holds it; without it, this installation's own.",
)


@click.command("key")
@json_option
@click.pass_obj
def key(config: Config, as_json: bool) -> None:
    """Print the public key that verifies this log's checkpoints: give it to whoever verifies.

    The key is made if there is none yet.
    """
    from gatelog.host.sealer import signing_key

    verifier = signing_key(config).verifier
    if as_json:
        print_json({"origin": verifier.name, "verifier_key": str(verifier)})
    else:
        click.echo(str(verifier))


@click.command("verify")
@click.argument("source", required=False, type=click.Path(path_type=Path, exists=True))
@key_option
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint that was kept: the log must still extend it. May be repeated; a consistency"
    " proof takes one.",
)
@click.option(
    "--purged-to",
    type=click.IntRange(min=0),
    help="Entries up to this position may be gone, whatever the log itself says of a purge.",
)
@click.option(
    "--entry",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The entry that a proof is about, when the proof does not carry it.",
)
@json_option
@click.pass_obj
def verify(
    config: Config,
    *,
    source: Path | None,
    key: str | None,
    checkpoints: tuple[Path, ...],
    purged_to: int | None,
    entry: Path | None,
    as_json: bool,
) -> int:
    """Verify the log, an export of it (a directory) or one proof (a file).

    A file is the proof of one event (a tlog-proof), or the proof that the log of a CHECKPOINT that
    was kept has only been added to. An export and a proof need nothing but the KEY: no database,
    no service.
    """
    if source is not None and source.is_file():
        if purged_to is not None:
            raise click.UsageError("--purged-to is for a log, not for a proof.")
        return _verify_file(source, _verifier(config, key), checkpoints, entry, as_json)
    if entry is not None:
        raise click.UsageError("--entry is for the proof of one event.")
    verifier = _verifier(config, key)
    return _verify_log(
        config, source, verifier, checkpoints, purged_to=purged_to or 0, as_json=as_json
    )


def _verify_log(
    config: Config,
    source: Path | None,
    verifier: Verifier,
    checkpoints: tuple[Path, ...],
    *,
    purged_to: int,
    as_json: bool,
) -> int:
    from gatelog.kinds import register_all

    register_all()
    from gatelog.proofs.service.verify_proof import kept_checkpoint

    kept = [kept_checkpoint(_read(path), str(path)) for path in checkpoints]
    if source is not None:
        with progress_bar("verify") as progress:
            report = _verify_export(source, verifier, kept, purged_to, progress)
        return _tell(report, as_json)
    own = _own_checkpoint(config)
    kept += own
    with progress_bar("verify") as progress:
        report = _verify_live(config, verifier, kept, purged_to, progress)
    return _tell(report, as_json, with_own=bool(own))


def _own_checkpoint(config: Config) -> list[SignedNote]:
    """The checkpoint that this host's sealer keeps; none, and a warning, when it is not there."""
    from gatelog.host.sealer import last_note
    from gatelog.proofs.service.verify_proof import kept_checkpoint

    file = last_note(config)
    note = file.read()
    if note is None:
        click.echo(
            f"gatelog: {file.path} is not there: that the log was not cut back, or signed anew, is"
            " shown by checkpoints alone that were kept elsewhere (--checkpoint)",
            err=True,
        )
        return []
    return [kept_checkpoint(note, str(file.path))]


def _verifier(config: Config, key: str | None) -> Verifier:
    from gatelog.host.sealer import existing_key
    from gatelog.proofs.rules.notes import parse_verifier

    if key is None:
        own = existing_key(config)
        if own is None:
            raise OperatorError("there is no signing key here; give the log's KEY with --key")
        return own.verifier
    text = key if "+" in key else _read(Path(key)).decode(errors="replace").strip()
    try:
        return parse_verifier(text)
    except MalformedProof as error:
        raise OperatorError(f"--key: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error


def _verify_file(
    source: Path,
    verifier: Verifier,
    checkpoints: tuple[Path, ...],
    entry: Path | None,
    as_json: bool,
) -> int:
    from gatelog.proofs.service.verify_proof import is_consistency_proof

    text = _read(source)
    try:
        if not is_consistency_proof(text):
            if checkpoints:
                raise click.UsageError("--checkpoint is for a log or a consistency proof.")
            return _verify_proof(text, verifier, entry, as_json)
        if entry is not None:
            raise click.UsageError("--entry is for the proof of one event.")
        if len(checkpoints) != 1:
            raise click.UsageError(
                "A consistency proof needs the one older checkpoint that it starts from:"
                " --checkpoint FILE."
            )
        return _verify_extension(text, verifier, _read(checkpoints[0]), as_json)
    except NotVerified as error:
        if not as_json:
            raise
        print_json({"verified": False, "code": error.code, "error": str(error)})
        return 1


def _verify_extension(text: bytes, verifier: Verifier, old: bytes, as_json: bool) -> int:
    from gatelog.proofs.service.verify_proof import verify_extension

    kept, checkpoint = verify_extension(text, verifier, old)
    if as_json:
        found = {"verified": True, "origin": checkpoint.origin}
        print_json(found | {"old_size": kept.size, "size": checkpoint.size})
    else:
        click.echo(
            f"{checkpoint.origin} with {checkpoint.size} events is the log that had {kept.size}"
            " events: it was only added to."
        )
    return 0


def _verify_proof(text: bytes, verifier: Verifier, entry: Path | None, as_json: bool) -> int:
    from gatelog.proofs.service.verify_proof import verify_proof

    verified = verify_proof(text, verifier, _read(entry) if entry else None)
    shown = (verified.entry or b"").decode(errors="backslashreplace")
    if as_json:
        origin, size = verified.checkpoint.origin, verified.checkpoint.size
        found = {"verified": True, "position": verified.position, "origin": origin}
        print_json(found | {"size": size, "entry": shown})
    else:
        click.echo(
            f"Position {verified.position} of {verified.checkpoint.origin} is this event, in a"
            f" signed tree of {verified.checkpoint.size}:\n{shown}"
        )
    return 0


def _verify_export(
    source: Path, verifier: Verifier, kept: list[SignedNote], purged_to: int, progress: Progress
) -> Report:
    from gatelog.proofs.service.tlog_files import LogDirectory
    from gatelog.proofs.service.verify import verify_log

    return asyncio.run(
        verify_log(
            LogDirectory(source), verifier, kept=kept, purged_to=purged_to, progress=progress
        )
    )


def _verify_live(
    config: Config,
    verifier: Verifier,
    kept: list[SignedNote],
    purged_to: int,
    progress: Progress,
) -> Report:
    from gatelog.host.database import reachable_database
    from gatelog.log.store.database import connect, translated_errors
    from gatelog.proofs.service.sources import LiveLog
    from gatelog.proofs.service.verify import verify_log

    async def run(dsn: str) -> Report:
        connection = await connect(dsn)
        try:
            with translated_errors():
                return await verify_log(
                    LiveLog(connection),
                    verifier,
                    kept=kept,
                    purged_to=purged_to,
                    progress=progress,
                )
        finally:
            await connection.close()

    with reachable_database(config, "log verify") as urls:
        return asyncio.run(run(urls.app))


def _tell(report: Report, as_json: bool, *, with_own: bool | None = None) -> int:
    """``with_own``: whether the live log was held against its sealer's own checkpoint."""
    first = report.first
    if as_json:
        own = {} if with_own is None else {"checkpoint_file": with_own}
        print_json(
            own
            | {
                "verified": first is None,
                "first_position": first.position if first else None,
                "events": report.events,
                "sealed": report.sealed,
                "checkpoints": report.checkpoints,
                "without_entry": report.without_entry,
                "purged_to": report.purged_to,
                "purged_at": report.purged_at,
                "findings": report.findings,
                "untold": report.untold,
            }
        )
        return 0 if first is None else 1
    counts = [
        ("events", report.events),
        ("sealed", report.sealed),
        ("checkpoints", report.checkpoints),
        ("events whose entry is gone", report.without_entry),
        ("findings", len(report.findings) + report.untold),
    ]
    print_table("The log and what was signed", ["what", "number"], counts)
    if report.purged_to:
        click.echo(
            f"The log begins after position {report.purged_to}: the event at position"
            f" {report.purged_at} says that it was purged."
        )
    for finding in sorted(report.findings, key=lambda found: found.position):
        console(sys.stdout).print(f"position {finding.position}: {finding.what}")
    if first is None:
        return 0
    click.echo(f"Does not verify. The first position that does not fit: {first.position}")
    return 1


@click.command("export-proofs")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@json_option
@click.pass_obj
def export_proofs(config: Config, directory: Path, as_json: bool) -> None:
    """Write the sealed log into DIRECTORY, as a static C2SP tlog-tiles tree.

    Into the same directory again, it goes on where it ended, unless the log is not an extension
    of what is there.
    """
    from gatelog.host.database import reachable_database
    from gatelog.log.store.database import connect, translated_errors
    from gatelog.proofs.service.tlog_files import export_log

    async def run(dsn: str) -> int:
        connection = await connect(dsn)
        try:
            with translated_errors():
                return await export_log(connection, directory, progress)
        finally:
            await connection.close()

    with (
        reachable_database(config, "log export-proofs") as urls,
        progress_bar("export") as progress,
    ):
        size = asyncio.run(run(urls.app))
    if as_json:
        print_json({"size": size, "directory": str(directory)})
    else:
        click.echo(f"Exported {size} events, sealed, to {directory}.")
