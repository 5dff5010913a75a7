"""What applications keep in a session.

Revision ID: 0009

The foreign key needs a lock of ``active_sessions`` that logins and logouts wait for, for as long
as it takes to make an empty table: milliseconds. Session checks do not wait.
"""

from gatelog.migrations.script import run_script

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Not a projection and not in the log: it is the application's, and gone with the session. The
# foreign key sees to that in the transaction in which the session ends, whatever version of the
# program ends it, and lets nobody write for a session that is over.
SESSION_DATA = """
CREATE TABLE session_data (
    session_id uuid   PRIMARY KEY REFERENCES active_sessions (session_id) ON DELETE CASCADE,
    revision   bigint NOT NULL CHECK (revision > 0),
    sealed     bytea  NOT NULL CHECK (octet_length(sealed) <= 4124)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON session_data TO gatelog_app;
"""


def upgrade() -> None:
    run_script(SESSION_DATA)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
