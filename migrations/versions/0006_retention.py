"""The state of the projection at positions behind, and what was purged.

Revision ID: 0006
"""

from gatelog.migrations.script import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Who was logged in at a position: where the sessions that had not ended by then have started.
# Written behind the log, every 2^14 positions or more.
SESSION_MARKS = """
CREATE TABLE session_marks (
    position bigint   PRIMARY KEY CHECK (position > 0),
    starts   bigint[] NOT NULL
);
"""

# The users as they were at a mark, those of them whom something has changed since the one before.
# A user's state at a mark is the newest row up to it.
USER_MARKS = """
CREATE TABLE user_marks (
    subject_id         uuid        NOT NULL,
    position           bigint      NOT NULL,
    registered_at      timestamptz NOT NULL,
    disabled           boolean     NOT NULL,
    credential_version integer     NOT NULL,
    roles              text[]      NOT NULL,
    erased             boolean     NOT NULL,
    PRIMARY KEY (subject_id, position)
);
CREATE INDEX user_marks_position ON user_marks (position);
"""

# Every purge: the last position that it gave up and when that was recorded, what was asked for,
# and the id of the event that says so. From its row on, what lies before counts as gone, and the
# next purge finishes it if need be.
PURGES = """
CREATE TABLE purges (
    up_to       bigint      PRIMARY KEY CHECK (up_to > 0),
    recorded_at timestamptz NOT NULL,
    before      timestamptz NOT NULL,
    event_id    uuid        NOT NULL UNIQUE,
    begun_at    timestamptz NOT NULL,
    finished_at timestamptz
);
"""

# The sessions that had not ended when their start was purged, by the position of that.
RETAINED_SESSIONS = """
CREATE TABLE retained_sessions (
    position     bigint      PRIMARY KEY,
    token_digest bytea       NOT NULL CHECK (octet_length(token_digest) = 32),
    session_id   uuid        NOT NULL,
    subject_id   uuid        NOT NULL,
    started_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    roles        text[]      NOT NULL
);
CREATE INDEX retained_sessions_subject ON retained_sessions (subject_id);
"""

GRANTS = """
GRANT SELECT, INSERT ON session_marks, user_marks TO gatelog_app;
GRANT SELECT ON purges, retained_sessions TO gatelog_app;
"""


def upgrade() -> None:
    for statements in (SESSION_MARKS, USER_MARKS, PURGES, RETAINED_SESSIONS, GRANTS):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
