"""Search by network and by login name: blind indexes beside the events, and how far they reach.

New tables, and a function is replaced: nobody waits. A version before this one appends beside it
without an origin: ``traced_to`` then stays behind the head, searches by network and login name are
answered 503, and a host of this version makes up for it, as it does for the events of before
(``gatelog.privacy.service.tracing``).

Revision ID: 0015
"""

from gatelog.migrations.script import run_script

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Up to this position every event has its origin, if it has one; one row. Not a column of log_head:
# to change that, a lock would be needed that an append has while it waits for the events.
ORIGINS_HEAD = """
CREATE TABLE origins_head (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    traced_to bigint  NOT NULL
);
INSERT INTO origins_head (traced_to) VALUES (0);
GRANT SELECT, UPDATE (traced_to) ON origins_head TO gatelog_app;
"""

# What an event is found by: the networks that it came from (/24, /16, /8; of IPv6 /64, /48, /32)
# and the login name in it, as keyed hashes. Partitioned as the events are. subject_id is whose they
# are; NULL for nobody's.
EVENT_ORIGINS = """
CREATE TABLE event_origins (
    position   bigint NOT NULL,
    subject_id uuid,
    near       bigint,
    middle     bigint,
    wide       bigint,
    login      bigint
) PARTITION BY RANGE (position);
CREATE INDEX event_origins_near ON event_origins (near, position) WHERE near IS NOT NULL;
CREATE INDEX event_origins_middle ON event_origins (middle, position) WHERE middle IS NOT NULL;
CREATE INDEX event_origins_wide ON event_origins (wide, position) WHERE wide IS NOT NULL;
CREATE INDEX event_origins_login ON event_origins (login, position) WHERE login IS NOT NULL;
CREATE INDEX event_origins_subject ON event_origins (subject_id, position);
GRANT SELECT, INSERT, DELETE ON event_origins TO gatelog_app;
"""

# A partition is made with the partition of the log that it belongs to, by the trigger of 0004.
PARTITIONS = """
CREATE FUNCTION add_origin_partition(first bigint, size bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    name constant text := format('event_origins_%s', first);
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE event_origins INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE event_origins ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
        name, first, first + size);
END $$;
REVOKE ALL ON FUNCTION add_origin_partition(bigint, bigint) FROM PUBLIC;

CREATE OR REPLACE FUNCTION follow_event_partition() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM add_address_partition(OLD.partitioned_to, NEW.partitioned_to - OLD.partitioned_to);
    PERFORM add_origin_partition(OLD.partitioned_to, NEW.partitioned_to - OLD.partitioned_to);
    RETURN NULL;
END $$;

SELECT add_origin_partition(first, COALESCE(next, partitioned_to) - first)
FROM (SELECT first, lead(first) OVER (ORDER BY first) AS next
      FROM (SELECT substring(c.relname FROM '^events_([0-9]+)$')::bigint AS first
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'events'::regclass AND NOT i.inhdetachpending) AS named
     ) AS existing, log_head;
"""


def upgrade() -> None:
    for statements in (ORIGINS_HEAD, EVENT_ORIGINS, PARTITIONS):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
