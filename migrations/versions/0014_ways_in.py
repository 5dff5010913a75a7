"""Users from elsewhere: what an imported password costs.

Revision ID: 0014

A column that is null, and an index of nothing: logins wait for the look through the credentials
that makes the index, a second for some millions. An older version beside it writes no such column;
it cannot verify the passwords that a newer one imports.
"""

from gatelog.migrations.script import run_script

revision = "0014"
down_revision = "0011"
branch_labels = None
depends_on = None

IMPORTED = """
ALTER TABLE credentials ADD COLUMN imported_cost text;
CREATE INDEX credentials_imported ON credentials (imported_cost) WHERE imported_cost IS NOT NULL;
"""


def upgrade() -> None:
    run_script(IMPORTED)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
