"""The newest first: of the sessions that are active, and of the users.

It may run while the service does. Appends wait while the indexes are made, about a second for a
million sessions and a million users; checks of sessions and readers do not. The head of the log is
locked first, as an append does: so nobody holds a part of what the other waits for. (A check of a
session that has idled too long asks under that lock as well, and waits as long.)

Revision ID: 0016
"""

from gatelog.migrations.script import run_script

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None

NO_APPENDS = "SELECT position FROM log_head FOR UPDATE"

# Who is in now, those that started last first. Tokens of machines last for years, and stay out.
SESSIONS = """
CREATE INDEX active_sessions_started ON active_sessions (started_at, session_id)
WHERE NOT is_token;
"""

# Who exists, those that came last first. Who is erased is a number, which nobody looks for.
USERS = "CREATE INDEX users_registered ON users (registered_at, subject_id) WHERE NOT erased;"


def upgrade() -> None:
    for statements in (NO_APPENDS, SESSIONS, USERS):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
