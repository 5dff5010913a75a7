"""The sealer as a process: signs the log's Merkle tree while there is something new.

One per host may run; that which has the lock seals (``proofs.service.sealer``). Its key is made at
first use, lies outside of the database and is never replaced here: a log that was signed with
another key is not sealed on. Beside that, the process keeps the marks up with the log
(``gatelog.audit.service.marks``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from gatelog.audit.service.marks import keep_marks
from gatelog.clock import utc_now
from gatelog.config import Config, variable
from gatelog.errors import ConfigError, MalformedProof
from gatelog.host.database import dsns
from gatelog.host.logs import configure_logging
from gatelog.host.processes import child_main
from gatelog.kinds import register_all
from gatelog.log.store.database import connect
from gatelog.proofs.rules.notes import Signer, is_key_name, parse_signer
from gatelog.proofs.service.sealer import LastNote, keep_sealing
from gatelog.secrets import ensure_directory, ensure_secret, read_secret

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

KEY_FILE = "log_signing_key"
HEARTBEAT_FILE = "sealing"
HEARTBEAT_S = 2.0
DATABASE_TIMEOUT_S = 60.0  # of one statement; the largest reads 65,536 hashes


def signing_key(config: Config) -> Signer:
    """The key that signs this log; made at first use. Raises ConfigError."""
    if config.log_signing_key:
        return _parsed(config, config.log_signing_key, variable("log_signing_key"))
    path = _key_path(config)
    if not path.exists() and last_note(config).path.exists():
        raise ConfigError(
            variable("data_dir"), f"{path} is gone, and the log was signed with it: bring it back"
        )
    if not config.data_path.is_dir():
        ensure_directory(config.data_path, 0o700)
    return _parsed(config, ensure_secret(path, lambda: _new_key(config)), variable("data_dir"))


def existing_key(config: Config) -> Signer | None:
    """The key if there is one already; none is made."""
    if config.log_signing_key:
        return signing_key(config)
    path = _key_path(config)
    if not path.exists():
        return None
    return _parsed(config, read_secret(path), variable("data_dir"))


def last_note(config: Config) -> LastNote:
    """The file that keeps the last signed note."""
    return LastNote(config.checkpoint_path)


def _key_path(config: Config) -> Path:
    return config.data_path / "secrets" / KEY_FILE


def _new_key(config: Config) -> str:
    """A fresh key; where no origin is configured, its name is one that no other log has."""
    name = config.log_origin or f"gatelog.local/{secrets.token_hex(8)}"
    if not is_key_name(name):
        raise ConfigError(variable("log_origin"), "no white space and no plus may be in it")
    return Signer(name, secrets.token_bytes(32)).private_text()


def _parsed(config: Config, text: str, setting: str) -> Signer:
    try:
        signer = parse_signer(text)
    except MalformedProof as error:
        raise ConfigError(setting, f"this is no signing key: {error}") from error
    if config.log_origin and signer.name != config.log_origin:
        raise ConfigError(
            variable("log_origin"), f"{config.log_origin!r} is not the key's name, {signer.name!r}"
        )
    return signer


def run(config: Config) -> None:
    """Be this host's sealer until SIGTERM or SIGINT. Raises ConfigError for an unusable key."""
    configure_logging(config)
    register_all()
    signer = signing_key(config)
    uvloop.run(_run_until_stopped(config, signer))


async def _run_until_stopped(config: Config, signer: Signer) -> None:
    dsn = dsns(config).app

    async def connection() -> Connection:
        return await connect(dsn, timeout_s=DATABASE_TIMEOUT_S)

    task = asyncio.gather(
        keep_sealing(
            connection,
            signer,
            last_note(config),
            now=utc_now,
            interval_s=config.seal_interval_s,
            beat=_heartbeat(config),
        ),
        keep_marks(connection),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _heartbeat(config: Config) -> Callable[[], None]:
    """Touches a file now and then, for who wants to see from outside whether sealing goes on."""
    path, last_s = config.data_path / HEARTBEAT_FILE, -HEARTBEAT_S

    def beat() -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= HEARTBEAT_S:
            last_s = time.monotonic()
            with contextlib.suppress(OSError):
                path.touch()

    return beat


def main() -> None:
    """The entry of the child process."""
    child_main(run)


if __name__ == "__main__":
    main()
