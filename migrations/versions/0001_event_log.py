"""The event log, its head, the projections of it, and credentials.

Revision ID: 0001
"""

from gatelog.migrations.script import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The one row that every append locks: position and recorded_at of the last event, and the end of
# the partitions that exist. A restore changes the epoch, so that every replica starts anew.
HEAD = """
CREATE TABLE log_head (
    one         boolean     PRIMARY KEY DEFAULT true CHECK (one),
    position    bigint      NOT NULL,
    recorded_at timestamptz NOT NULL,
    partitioned_to bigint   NOT NULL,
    epoch       integer     NOT NULL DEFAULT 1
);
"""

# One row per event. position is dense and in commit order; entry is what is hashed.
EVENTS = """
CREATE TABLE events (
    position       bigint      NOT NULL PRIMARY KEY,
    event_id       uuid        NOT NULL,
    type           text        NOT NULL,
    schema_version smallint    NOT NULL,
    session_id     uuid,
    subject_id     uuid,
    recorded_at    timestamptz NOT NULL,
    entry          bytea       NOT NULL CHECK (octet_length(entry) <= 65535),
    leaf_hash      bytea       NOT NULL CHECK (octet_length(leaf_hash) = 32)
) PARTITION BY RANGE (position);
"""

# A unique key cannot span partitions, so uniqueness of event ids has a narrow table of its own.
EVENT_IDS = """
CREATE TABLE event_ids (
    event_id uuid   PRIMARY KEY,
    position bigint NOT NULL
);
"""

# Projection of the log: who exists, and in which state.
USERS = """
CREATE TABLE users (
    subject_id         uuid        PRIMARY KEY,
    registered_at      timestamptz NOT NULL,
    disabled           boolean     NOT NULL,
    credential_version integer     NOT NULL,
    roles              text[]      NOT NULL
);
"""

# Projection of the log: the sessions that have started and not ended.
ACTIVE_SESSIONS = """
CREATE TABLE active_sessions (
    token_digest bytea       PRIMARY KEY CHECK (octet_length(token_digest) = 32),
    session_id   uuid        NOT NULL UNIQUE,
    subject_id   uuid        NOT NULL,
    started_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    roles        text[]      NOT NULL
);
CREATE INDEX active_sessions_subject ON active_sessions (subject_id);
CREATE INDEX active_sessions_expiry ON active_sessions (expires_at);
"""

# Not a projection: login names and password hashes never enter the log.
CREDENTIALS = """
CREATE TABLE credentials (
    subject_id    uuid        PRIMARY KEY,
    login         text        NOT NULL UNIQUE,
    password_hash text        NOT NULL,
    changed_at    timestamptz NOT NULL
);
"""

# Nobody changes history: not the application (it has no right), not the owner by mistake.
APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % of % refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON event_ids
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON event_ids
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# Adds the next partition of 2^20 positions. The application calls it under the head's lock, a
# whole partition ahead; it runs as the owner. ATTACH and not CREATE … PARTITION OF: the latter
# locks out readers. The CHECK spares the scan of the new table.
PARTITIONS = """
CREATE FUNCTION add_event_partition() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    size  constant bigint := 1048576;
    first bigint;
    name  text;
BEGIN
    SELECT partitioned_to INTO STRICT first FROM log_head FOR UPDATE;
    name := format('events_%s', first);
    EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING ALL,'
        ' CONSTRAINT bounds CHECK (position >= %s AND position < %s))', name, first, first + size);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
        name, first, first + size);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT bounds', name);
    EXECUTE format('CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON %I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    UPDATE log_head SET partitioned_to = first + size;
    RETURN first + size;
END $$;
REVOKE ALL ON FUNCTION add_event_partition() FROM PUBLIC;
INSERT INTO log_head (position, recorded_at, partitioned_to) VALUES (0, '-infinity', 1);
SELECT add_event_partition();
SELECT add_event_partition();
"""

# The application's rights. A role is of the whole cluster, so it may be there already.
GRANTS = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'gatelog_app') THEN
        CREATE ROLE gatelog_app NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$;
GRANT SELECT, UPDATE (position, recorded_at) ON log_head TO gatelog_app;
GRANT SELECT, INSERT ON events, event_ids TO gatelog_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON users, active_sessions, credentials TO gatelog_app;
GRANT EXECUTE ON FUNCTION add_event_partition() TO gatelog_app;
GRANT SELECT ON gatelog_schema TO gatelog_app;
"""


def upgrade() -> None:
    for statements in (
        HEAD,
        EVENTS,
        EVENT_IDS,
        USERS,
        ACTIVE_SESSIONS,
        CREDENTIALS,
        APPEND_ONLY,
        PARTITIONS,
        GRANTS,
    ):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
