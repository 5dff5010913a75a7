"""The composer: drafts and builds, what was announced, and how often users were recorded.

Revision ID: 0018

New tables, and a column of the leases that is null: an older version beside it neither reads nor
writes any of it. It may run while the service does; renewals of leases wait for a moment.
"""

from gatelog.migrations.script import run_script

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# Follows from the log: the newest announcement of each topic (gatelog.sessions.rules.announced).
ANNOUNCED = """
CREATE TABLE announced (
    topic text  PRIMARY KEY,
    value bytea NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON announced TO gatelog_app;
"""

# NULL: of a projector that does not keep what is announced.
ANNOUNCES = "ALTER TABLE replica_lease ADD COLUMN announces boolean;"

# Beside the log, which has the SHA-256 of each content. A build is never changed or removed.
COMPOSER = """
CREATE TABLE composer (
    only_one   boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    draft      bytea       NOT NULL DEFAULT '',
    content    bytea       NOT NULL DEFAULT '',
    changed_at timestamptz,
    changed_by uuid,
    day        text        NOT NULL DEFAULT '',
    changes    integer     NOT NULL DEFAULT 0
);
INSERT INTO composer DEFAULT VALUES;
CREATE TABLE composer_builds (
    build    bigint      PRIMARY KEY,
    digest   bytea       NOT NULL CHECK (octet_length(digest) = 32),
    content  bytea       NOT NULL,
    position bigint      NOT NULL,
    built_at timestamptz NOT NULL,
    built_by uuid,
    restored bigint
);
GRANT SELECT, UPDATE ON composer TO gatelog_app;
GRANT SELECT, INSERT ON composer_builds TO gatelog_app;
CREATE TABLE app_records (
    subject_id uuid        NOT NULL,
    name       text        NOT NULL,
    since      timestamptz NOT NULL,
    count      integer     NOT NULL,
    PRIMARY KEY (subject_id, name)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON app_records TO gatelog_app;
"""


def upgrade() -> None:
    for statements in (ANNOUNCED, ANNOUNCES, COMPOSER):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
