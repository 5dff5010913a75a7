"""What audit queries are answered from: three indexes over the events, and time as a position.

It may run while the service does: the indexes are made one partition after the other, and a full
partition is locked (SHARE) against nobody but a purge. While those of the current partition are
made (at most 1,048,576 events, about three seconds), and until the migrations commit, appends wait;
readers and session checks do not. What waits longer than the database's timeout is answered 503.

Revision ID: 0005
"""

from alembic import op
from sqlalchemy import text

from migrations.script import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# One probe for each type finds what is about a user, in order; a user is nobody where NULL.
BY_SUBJECT = "(subject_id, type, position) WHERE subject_id IS NOT NULL"
BY_TYPE = "(type, position)"
# A session has a handful of events: their order need not be in the index.
BY_SESSION = "(session_id) WHERE session_id IS NOT NULL"

PARTITIONS = """
SELECT c.oid::regclass::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'events'::regclass
ORDER BY substring(c.relname FROM '[0-9]+$')::bigint
"""

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
    indexes = (BY_SUBJECT, BY_TYPE, BY_SESSION)
    # the current partition comes last, and after it the whole table, which takes over what is there
    partitions = [row.name for row in op.get_bind().execute(text(PARTITIONS))]
    for table in (*partitions, "events"):
        for index in indexes:
            run_script(f"CREATE INDEX ON {table} {index}")
    run_script(TIME_AS_POSITION)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
