"""Second factors: what is enrolled, recovery codes, and challenges between password and factor.

Revision ID: 0013

An older program verifies ``password_hash`` and knows nothing of factors. So, while a factor is
enrolled, the hash of the password stands in ``guarded_hash``, and ``password_hash`` is one that no
password fits: the older program refuses, as for a wrong password. What hangs on ``credentials``
goes with them when it erases a user. It would make marks that leave out factors, and a mark never
changes: so ``user_marks`` takes none of it any more (nothing waits for marks).

The locks of ``credentials``, ``users`` and ``user_marks`` keep out logins and commands for the
milliseconds that it takes; no check of a session reads them. They are waited for a tenth of a
second at a time, and all let go in between, so that nobody queues up behind them and nobody waits
crosswise.
"""

from gatelog.migrations.script import run_script

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

COLUMNS = """
DO $$
DECLARE
    patience constant text := current_setting('lock_timeout');
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            ALTER TABLE credentials ADD COLUMN guarded_hash text;
            ALTER TABLE users       ADD COLUMN factors integer NOT NULL DEFAULT 0;
            ALTER TABLE user_marks  ADD COLUMN factors integer NOT NULL DEFAULT 0;
            ALTER TABLE user_marks  ALTER COLUMN factors DROP DEFAULT;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
END $$;
"""

# The secrets of factors, and their names: sealed under the user's key. ``counter`` is the last time
# step of a TOTP seed that a code was taken for, or the signature counter of a passkey. What is
# deleted for good reasons must not survive in the planner's samples.
FACTORS = """
CREATE TABLE factors (
    factor_id         uuid        PRIMARY KEY,
    subject_id        uuid        NOT NULL REFERENCES credentials (subject_id) ON DELETE CASCADE,
    kind              text        NOT NULL,
    enrolled_at       timestamptz NOT NULL,
    used_at           timestamptz,
    counter           bigint      NOT NULL,
    credential_digest bytea       UNIQUE CHECK (octet_length(credential_digest) = 32),
    sealed            bytea       NOT NULL CHECK (octet_length(sealed) <= 8192)
);
CREATE INDEX factors_subject ON factors (subject_id);
ALTER TABLE factors ALTER COLUMN sealed SET STATISTICS 0;
ALTER TABLE factors ALTER COLUMN credential_digest SET STATISTICS 0;
CREATE TABLE recovery_codes (
    subject_id  uuid  NOT NULL REFERENCES credentials (subject_id) ON DELETE CASCADE,
    code_digest bytea NOT NULL CHECK (octet_length(code_digest) = 32),
    PRIMARY KEY (subject_id, code_digest)
);
ALTER TABLE recovery_codes ALTER COLUMN code_digest SET STATISTICS 0;
"""

# What is asked of somebody who has no session yet, or of a session that enrols something; and
# which challenges, of those that are not kept, have been answered (``answered``).
CHALLENGES = """
CREATE TABLE challenges (
    challenge_digest   bytea       PRIMARY KEY CHECK (octet_length(challenge_digest) = 32),
    subject_id         uuid        NOT NULL REFERENCES credentials (subject_id) ON DELETE CASCADE,
    purpose            text        NOT NULL,
    session_id         uuid,
    credential_version integer     NOT NULL,
    expires_at         timestamptz NOT NULL,
    wrong              integer     NOT NULL,
    answered           boolean     NOT NULL
);
CREATE INDEX challenges_subject ON challenges (subject_id, expires_at);
CREATE INDEX challenges_expires ON challenges (expires_at);
ALTER TABLE challenges ALTER COLUMN challenge_digest SET STATISTICS 0;
GRANT SELECT, INSERT, UPDATE, DELETE ON factors, recovery_codes, challenges TO gatelog_app;
"""


def upgrade() -> None:
    for statements in (COLUMNS, FACTORS, CHALLENGES):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
