"""How many sessions each replica holds, for who looks at all hosts.

Revision ID: 0007
"""

from gatelog.migrations.script import run_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# NULL: from a projector that does not tell.
SESSIONS = "ALTER TABLE replica_lease ADD COLUMN sessions bigint;"


def upgrade() -> None:
    run_script(SESSIONS)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
