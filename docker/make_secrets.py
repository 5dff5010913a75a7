"""Makes the secrets of the stack, once, each into the volume of who may read it.

    make_secrets.py                      at every start; makes what there is none of at the first
    make_secrets.py new-passwords        other passwords for the database's roles
    make_secrets.py add-master-key       a new master key in front of the old one
    make_secrets.py drop-old-master-keys only the newest one stays

Rules: a secret is random, whole or not there, and shown to nobody. What was made once is never made
again by itself: a lost secret is an error, because what it protects is still there. The database's
files are for the group of PostgreSQL, everything else for the service alone.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from gatelog.proofs.rules.notes import Signer
from gatelog.secrets import random_secret, read_secret, replace_secret

ROOT = Path(os.environ.get("GATELOG_SECRETS_DIR", "/secrets"))
MADE = ROOT / "database" / "made"  # written last
ADDRESS = "postgres:5432/gatelog"
SUPERUSER, OWNER, APPLICATION = (
    ROOT / "database" / name for name in ("superuser_password", "owner_password", "password")
)
MASTER_KEY = ROOT / "application" / "master_key"
SIGNING_KEY = ROOT / "sealer" / "log_signing_key"
FILES = (
    *(SUPERUSER, OWNER, APPLICATION, MASTER_KEY),
    *(ROOT / reader / "database_url" for reader in ("application", "owner", "sealer")),
    ROOT / "owner" / "owner_database_url",
    SIGNING_KEY,
)


def make() -> None:
    """Make everything, unless that was done before."""
    if MADE.exists():
        missing = [str(path) for path in FILES if not path.exists()]
        if missing:
            sys.exit(f"gatelog: secrets are gone: {', '.join(missing)}. Bring them back.")
        return
    write(SUPERUSER, random_secret())
    new_passwords()
    write(MASTER_KEY, random_secret())
    origin = os.environ.get("GATELOG_LOG_ORIGIN") or f"gatelog.local/{secrets.token_hex(8)}"
    write(
        ROOT / "sealer" / "log_signing_key", Signer(origin, secrets.token_bytes(32)).private_text()
    )
    write(MADE, "yes")
    print("made the secrets of this stack")  # noqa: T201


def new_passwords() -> None:
    """Other passwords; the database takes them when its script of roles has run."""
    owner, application = random_secret(), random_secret()
    write(OWNER, owner)
    write(APPLICATION, application)
    url = f"postgresql://gatelog:{application}@{ADDRESS}"
    for reader in ("application", "owner", "sealer"):
        write(ROOT / reader / "database_url", url)
    write(ROOT / "owner" / "owner_database_url", f"postgresql://gatelog_owner:{owner}@{ADDRESS}")


def add_master_key() -> None:
    """A new master key; the old ones still open what they have wrapped."""
    write(MASTER_KEY, f"{random_secret()} {read_secret(MASTER_KEY)}")


def drop_old_master_keys() -> None:
    """Forget all master keys but the newest; 'gatelog keys rotate' must have run."""
    write(MASTER_KEY, read_secret(MASTER_KEY).split()[0])


def write(path: Path, text: str) -> None:
    """Write one secret, whole or not at all, for its reader alone."""
    replace_secret(path, text)
    if path.parent.name == "database":
        path.chmod(0o640)  # the directory hands its group on


COMMANDS = {
    "": make,
    "new-passwords": new_passwords,
    "add-master-key": add_master_key,
    "drop-old-master-keys": drop_old_master_keys,
}


def main() -> None:
    command = COMMANDS.get(" ".join(sys.argv[1:]))
    if command is None:
        sys.exit(__doc__)
    command()


if __name__ == "__main__":
    main()
