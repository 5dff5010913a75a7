"""How long sessions may idle, and what people call them.

Revision ID: 0010

Sessions of before, and those that a program of before starts, have nothing in these columns: they
need not be used. ``expires_at`` is when a session is over unless it is used until then. Programs of
before read it, too, so they never accept a session for longer.

The lock of ``active_sessions`` keeps out everybody, also who checks a session at the primary, for
the milliseconds that it takes. It is waited for a tenth of a second at a time, so that nobody
queues up behind a wait for a replica that is loading.
"""

from gatelog.migrations.script import run_script

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ACTIVE_SESSIONS = """
DO $$
DECLARE
    patience constant text := current_setting('lock_timeout');
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            ALTER TABLE active_sessions
                ADD COLUMN absolute_at timestamptz,
                ADD COLUMN idle_s      integer CHECK (idle_s > 0),
                ADD COLUMN seen_at     timestamptz;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
END $$;
"""

# What people call their sessions: sealed under the user's key, and gone with the session.
SESSION_NAMES = """
CREATE TABLE session_names (
    session_id uuid  PRIMARY KEY REFERENCES active_sessions (session_id) ON DELETE CASCADE,
    sealed     bytea NOT NULL CHECK (octet_length(sealed) <= 512)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON session_names TO gatelog_app;
"""

RETAINED_SESSIONS = """
ALTER TABLE retained_sessions
    ADD COLUMN absolute_at timestamptz,
    ADD COLUMN idle_s      integer CHECK (idle_s > 0),
    ADD COLUMN seen_at     timestamptz;
"""


def upgrade() -> None:
    for statements in (ACTIVE_SESSIONS, SESSION_NAMES, RETAINED_SESSIONS):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
