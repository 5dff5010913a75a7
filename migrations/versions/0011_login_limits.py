"""Brute-force limits: what was tried, failures in a row, known devices.

Revision ID: 0011

New tables only: nobody waits. An older version beside it counts nothing.
"""

from gatelog.migrations.script import run_script

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# None of these is a projection: see gatelog.accounts.rules.throttling. Accounts, places and devices
# are blind indexes: keyed hashes of a login, of a network, of a token's digest.
TRIES = """
CREATE TABLE login_tries (
    try_id     uuid        PRIMARY KEY,
    at         timestamptz NOT NULL,
    account    bytea,
    place      bytea,
    device     bytea,
    subject_id uuid,
    settled    boolean     NOT NULL
);
CREATE INDEX login_tries_account ON login_tries (account, at) WHERE account IS NOT NULL;
CREATE INDEX login_tries_place ON login_tries (place, at) WHERE place IS NOT NULL;
CREATE INDEX login_tries_subject ON login_tries (subject_id) WHERE subject_id IS NOT NULL;
CREATE INDEX login_tries_at ON login_tries (at);
CREATE TABLE password_streaks (
    subject_id uuid    PRIMARY KEY,
    failures   integer NOT NULL CHECK (failures > 0)
);
CREATE TABLE throttled_places (
    place    bytea       PRIMARY KEY,
    noted_at timestamptz NOT NULL
);
CREATE INDEX throttled_places_at ON throttled_places (noted_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON login_tries, password_streaks, throttled_places
    TO gatelog_app;
"""

# What is deleted for good reasons must not survive in the planner's samples.
DEVICES = """
CREATE TABLE known_devices (
    subject_id    uuid        NOT NULL,
    device_digest bytea       NOT NULL CHECK (octet_length(device_digest) = 32),
    seen_at       timestamptz NOT NULL,
    PRIMARY KEY (subject_id, device_digest)
);
CREATE INDEX known_devices_seen ON known_devices (seen_at);
ALTER TABLE known_devices ALTER COLUMN device_digest SET STATISTICS 0;
GRANT SELECT, INSERT, UPDATE, DELETE ON known_devices TO gatelog_app;
"""


def upgrade() -> None:
    run_script(TRIES)
    run_script(DEVICES)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
