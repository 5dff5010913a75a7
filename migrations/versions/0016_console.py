"""The newest first: of the sessions that are active, and of the users.

It may run while the service does. Appends wait while the indexes are made, about a second for a
million sessions and a million users; checks of sessions and readers do not. The locks are waited
for a tenth of a second at a time, and both let go in between, so that nobody queues up behind them
and nobody waits crosswise.

Revision ID: 0016
"""

from gatelog.migrations.script import run_script

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# Who is in now, those that started last first: tokens of machines last for years, and stay out. And
# who exists, those that came last first: who is erased is a number, which nobody looks for.
NEWEST_FIRST = """
DO $$
DECLARE
    patience constant text := current_setting('lock_timeout');
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE users, active_sessions IN SHARE MODE;
            CREATE INDEX users_registered ON users (registered_at, subject_id) WHERE NOT erased;
            CREATE INDEX active_sessions_started ON active_sessions (started_at, session_id)
            WHERE NOT is_token;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
END $$;
"""


def upgrade() -> None:
    run_script(NEWEST_FIRST)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
