"""Ways in: what an imported password costs; links, verified addresses, mails to send.

Revision ID: 0014

A column that is null, and an index of nothing: logins wait for the look through the credentials
that makes the index, a second for some millions. An older version beside it writes no such column;
it cannot verify the passwords that a newer one imports. All else are new tables.
"""

from gatelog.migrations.script import run_script

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

IMPORTED = """
ALTER TABLE credentials ADD COLUMN imported_cost text;
CREATE INDEX credentials_imported ON credentials (imported_cost) WHERE imported_cost IS NOT NULL;
"""

# Neither is a projection: see gatelog.accounts.rules.links and gatelog.mail.rules.outbox. What is
# deleted for good reasons must not survive in the planner's samples.
LINKS = """
CREATE TABLE links (
    link_digest        bytea       PRIMARY KEY CHECK (octet_length(link_digest) = 32),
    subject_id         uuid        NOT NULL,
    purpose            text        NOT NULL,
    credential_version integer     NOT NULL,
    expires_at         timestamptz NOT NULL,
    sealed             bytea
);
CREATE INDEX links_subject ON links (subject_id);
CREATE INDEX links_expiry ON links (expires_at);
ALTER TABLE links ALTER COLUMN link_digest SET STATISTICS 0;
ALTER TABLE links ALTER COLUMN sealed SET STATISTICS 0;
CREATE TABLE link_requests (
    event_id uuid        PRIMARY KEY,
    asked_at timestamptz NOT NULL
);
CREATE INDEX link_requests_at ON link_requests (asked_at);
CREATE TABLE mail_addresses (
    subject_id  uuid        PRIMARY KEY,
    sealed      bytea       NOT NULL,
    verified_at timestamptz NOT NULL
);
ALTER TABLE mail_addresses ALTER COLUMN sealed SET STATISTICS 0;
GRANT SELECT, INSERT, UPDATE, DELETE ON links, link_requests, mail_addresses TO gatelog_app;
"""
OUTBOX = """
CREATE TABLE mail_outbox (
    mail_id     uuid        PRIMARY KEY,
    subject_id  uuid        NOT NULL,
    sealed      bytea       NOT NULL,
    written_at  timestamptz NOT NULL,
    due_at      timestamptz NOT NULL,
    tries       integer     NOT NULL,
    link_digest bytea,
    dead_at     timestamptz
);
CREATE INDEX mail_outbox_due ON mail_outbox (due_at) WHERE dead_at IS NULL;
CREATE INDEX mail_outbox_subject ON mail_outbox (subject_id);
ALTER TABLE mail_outbox ALTER COLUMN sealed SET STATISTICS 0;
ALTER TABLE mail_outbox ALTER COLUMN link_digest SET STATISTICS 0;
GRANT SELECT, INSERT, UPDATE, DELETE ON mail_outbox TO gatelog_app;
"""


def upgrade() -> None:
    for statements in (IMPORTED, LINKS, OUTBOX):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
