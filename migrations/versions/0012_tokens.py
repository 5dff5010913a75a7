"""How and when the user of a session was authenticated, and which sessions are tokens of machines.

Revision ID: 0012

Of sessions of before, and of those that a program of before starts, nothing is known of the methods
(``amr`` is empty), and the user was authenticated when they started (``authenticated_at`` is NULL).
A program of before takes a token for a session whose token nobody can present: it is longer than
any that it knows.

The lock of ``active_sessions`` keeps out everybody, also who checks a session at the primary, for
the milliseconds that it takes: no row is rewritten. It is waited for a tenth of a second at a time,
so that nobody queues up behind a wait for a replica that is loading.
"""

from gatelog.migrations.script import run_script

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COLUMNS = """
    ADD COLUMN authenticated_at timestamptz,
    ADD COLUMN amr              text[]  NOT NULL DEFAULT '{}',
    ADD COLUMN is_token         boolean NOT NULL DEFAULT false
"""

ACTIVE_SESSIONS = f"""
DO $$
DECLARE
    patience constant text := current_setting('lock_timeout');
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            ALTER TABLE active_sessions {COLUMNS};
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
END $$;
"""

RETAINED_SESSIONS = f"ALTER TABLE retained_sessions {COLUMNS};"


def upgrade() -> None:
    for statements in (ACTIVE_SESSIONS, RETAINED_SESSIONS):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
