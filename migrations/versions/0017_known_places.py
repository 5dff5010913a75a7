"""An account is known by the places that it is used from, too.

A place has a blind index and no token; rows of the version before are devices. It may run while the
service does: the default is kept beside the table (PostgreSQL 11), so no row is written anew.

Revision ID: 0017
"""

from gatelog.migrations.script import run_script

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

PLACES = """
ALTER TABLE known_devices ADD COLUMN is_place boolean NOT NULL DEFAULT false;
"""


def upgrade() -> None:
    run_script(PLACES)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
