"""Secrets that Gatelog makes for itself: one file each, for the eyes of its owner only.

A secret is written once, whole or not at all (a temporary file, synced, then linked into place),
and never replaced by itself: what it protects may outlive the process that made it. Only the
rotation of a key replaces one, as whole.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gatelog.config import variable
from gatelog.errors import ConfigError

SECRET_BYTES = 32


def ensure_directory(path: Path, mode: int) -> None:
    """Make the directory with this mode, whatever the umask. Raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)
    except OSError as error:
        raise unusable(path, error) from error


def random_secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


def ensure_secret(path: Path, make: Callable[[], str] = random_secret) -> str:
    """The secret in this file, made (from randomness) at first use. Raises ConfigError."""
    ensure_directory(path.parent, 0o700)
    try:
        if not path.exists():
            _create(path, make())
        return read_secret(path)
    except OSError as error:
        raise unusable(path, error) from error


def read_secret(path: Path) -> str:
    """The secret in this file. Raises ConfigError when there is none that can be read."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise unusable(path, error) from error
    if not text:
        raise ConfigError(variable("data_dir"), f"the secret {path} is empty")
    return text


def replace_secret(path: Path, text: str) -> None:
    """Put another secret in this file. Raises ConfigError, and leaves the old one, if it cannot."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(draft, text)
        draft.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise unusable(path, error) from error
    finally:
        draft.unlink(missing_ok=True)


def unusable(path: Path, error: Exception) -> ConfigError:
    """The error for a path under the data directory that cannot be used."""
    reason = error.strerror if isinstance(error, OSError) else "it is not text"
    return ConfigError(variable("data_dir"), f"cannot use {path}: {reason}")


def _create(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(draft, text)
        with suppress(FileExistsError):  # another process was first: its secret counts
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _write(draft: Path, text: str) -> None:
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
