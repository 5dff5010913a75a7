"""Personal data: the keys that seal it, the blind index over addresses, erased users.

Revision ID: 0004
"""

from gatelog.migrations.script import run_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A user who is erased keeps a row, with nothing in it that tells who it was.
USERS = """
ALTER TABLE users ADD COLUMN erased boolean NOT NULL DEFAULT false;
CREATE INDEX users_admins ON users (subject_id) WHERE 'admin' = ANY (roles) AND NOT disabled;
"""

# Which master key wraps new keys, and the key of the blind index; one row, made at first use.
KEY_RING = """
CREATE TABLE key_ring (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    master_key_id bytea   NOT NULL CHECK (octet_length(master_key_id) = 8),
    address_key   bytea   NOT NULL CHECK (octet_length(address_key) = 60)
);
"""

# The key of each user; without it nothing personal in the log can be read.
SUBJECT_KEYS = """
CREATE TABLE subject_keys (
    subject_id    uuid  PRIMARY KEY,
    wrapped_key   bytea NOT NULL CHECK (octet_length(wrapped_key) = 60),
    master_key_id bytea NOT NULL CHECK (octet_length(master_key_id) = 8)
);
"""

# The key of each day, for failed logins of names that nobody has. What it seals lies after
# head_position.
DAY_KEYS = """
CREATE TABLE day_keys (
    day           date   PRIMARY KEY,
    wrapped_key   bytea  NOT NULL CHECK (octet_length(wrapped_key) = 60),
    master_key_id bytea  NOT NULL CHECK (octet_length(master_key_id) = 8),
    head_position bigint NOT NULL
);
"""

# Which events came from an address: a keyed hash of it, beside the events and partitioned as they
# are. subject_id is whose address it is; NULL for nobody's.
EVENT_ADDRESSES = """
CREATE TABLE event_addresses (
    address_index bytea  NOT NULL CHECK (octet_length(address_index) = 16),
    position      bigint NOT NULL,
    subject_id    uuid,
    PRIMARY KEY (address_index, position)
) PARTITION BY RANGE (position);
CREATE INDEX event_addresses_subject ON event_addresses (subject_id, position);
"""

# Statistics hold samples of a column's values, and outlive the rows.
NO_STATISTICS = """
ALTER TABLE credentials ALTER COLUMN login SET STATISTICS 0,
                        ALTER COLUMN password_hash SET STATISTICS 0;
ALTER TABLE subject_keys ALTER COLUMN wrapped_key SET STATISTICS 0;
ALTER TABLE day_keys ALTER COLUMN wrapped_key SET STATISTICS 0;
ALTER TABLE key_ring ALTER COLUMN address_key SET STATISTICS 0;
"""

# A partition of the index is made with the partition of the log that it belongs to.
PARTITIONS = """
CREATE FUNCTION add_address_partition(first bigint, size bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    name constant text := format('event_addresses_%s', first);
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE event_addresses INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE event_addresses ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
        name, first, first + size);
END $$;
REVOKE ALL ON FUNCTION add_address_partition(bigint, bigint) FROM PUBLIC;

CREATE FUNCTION follow_event_partition() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM add_address_partition(OLD.partitioned_to, NEW.partitioned_to - OLD.partitioned_to);
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION follow_event_partition() FROM PUBLIC;
CREATE TRIGGER address_partitions AFTER UPDATE OF partitioned_to ON log_head
    FOR EACH ROW WHEN (NEW.partitioned_to > OLD.partitioned_to)
    EXECUTE FUNCTION follow_event_partition();

SELECT add_address_partition(first, 1048576)
FROM (SELECT substring(c.relname FROM '^events_([0-9]+)$')::bigint AS first
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'events'::regclass) AS existing;
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON key_ring TO gatelog_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON subject_keys, day_keys TO gatelog_app;
GRANT SELECT, INSERT, DELETE ON event_addresses TO gatelog_app;
"""


def upgrade() -> None:
    for statements in (
        USERS,
        KEY_RING,
        SUBJECT_KEYS,
        DAY_KEYS,
        EVENT_ADDRESSES,
        NO_STATISTICS,
        PARTITIONS,
        GRANTS,
    ):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
