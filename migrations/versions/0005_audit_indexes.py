"""What audit queries are answered from: three indexes over the events, and time as a position.

It may run while the service does: the indexes are made one partition after the other, and a full
partition is locked (SHARE) against nobody but a purge. While those of the current partition are
made (at most 1,048,576 events, about three seconds), and until the migrations commit, appends wait;
readers and session checks do not. What waits longer than the database's timeout is answered 503.
They wait for the whole table: an append locks that before its partition, so with the partition
locked first, the two would wait for each other.

Revision ID: 0005
"""

from alembic import op
from gatelog.migrations.script import run_script
from sqlalchemy import text

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# One probe for each type finds what is about a user, in order; a user is nobody where NULL.
BY_SUBJECT = "(subject_id, type, position) WHERE subject_id IS NOT NULL"
BY_TYPE = "(type, position)"
# A session has a handful of events: their order need not be in the index.
BY_SESSION = "(session_id) WHERE session_id IS NOT NULL"

# The full ones, to which nothing is appended any more, and the others; oldest first.
PARTITIONS = """
SELECT c.oid::regclass::text AS name,
       lead(first) OVER (ORDER BY first) <= (SELECT position + 1 FROM log_head) AS full
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
     LATERAL (SELECT substring(c.relname FROM '[0-9]+$')::bigint AS first) AS t
WHERE i.inhparent = 'events'::regclass
ORDER BY first
"""
NO_APPENDS = "LOCK TABLE ONLY events IN SHARE MODE"

# recorded_at never decreases with the position, so a moment is a position, found by halving.
TIME_AS_POSITION = """
CREATE FUNCTION first_position_from(moment timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
DECLARE
    low    bigint;
    high   bigint;
    middle bigint;
    earlier boolean;
BEGIN
    SELECT position + 1 INTO STRICT high FROM log_head;
    SELECT position INTO low FROM events ORDER BY position LIMIT 1;
    low := COALESCE(low, high);
    WHILE low < high LOOP
        middle := (low + high) / 2;
        SELECT recorded_at < moment INTO earlier FROM events WHERE position = middle;
        IF earlier IS NOT FALSE THEN -- or purged this very moment
            low := middle + 1;
        ELSE
            high := middle;
        END IF;
    END LOOP;
    RETURN low;
END $$;
REVOKE ALL ON FUNCTION first_position_from(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION first_position_from(timestamptz) TO gatelog_app;
"""


def upgrade() -> None:
    partitions = op.get_bind().execute(text(PARTITIONS)).all()
    _index(*(row.name for row in partitions if row.full))
    run_script(NO_APPENDS)
    # after them the whole table, which takes over what is there
    _index(*(row.name for row in partitions if not row.full), "events")
    run_script(TIME_AS_POSITION)


def _index(*tables: str) -> None:
    for table in tables:
        for index in (BY_SUBJECT, BY_TYPE, BY_SESSION):
            run_script(f"CREATE INDEX ON {table} {index}")


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
