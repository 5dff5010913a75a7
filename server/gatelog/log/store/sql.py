"""The statements of the log: positions, the batch, and the projection held against them.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

# Set up a session. Who wants more than a commit on this server's disk gets it; who wants less does
# not. $1 names of settings, $2 values
SET_UP = """
SELECT set_config(name, CASE
    WHEN name = 'synchronous_commit' AND value = 'on'
         AND current_setting(name) NOT IN ('off', 'local')
    THEN current_setting(name) ELSE value END, false)
FROM unnest($1::text[], $2::text[]) AS t (name, value)
"""

# The process of the server that answers.
BACKEND = "SELECT pg_backend_pid()"

# The schema version that the database has.
SCHEMA_VERSION = "SELECT version_num FROM gatelog_schema"

# The oldest schema whose programs can work on this one; NULL where nothing is known of it.
OLDEST_SERVED = "SELECT obj_description('gatelog_schema'::regclass, 'pg_class')"

# --- the event log ---

# Take the lock that orders all appends. Runs by the simple protocol, together with its BEGIN; the
# state is read by a later statement, whose snapshot then is younger than the lock.
LOCK_HEAD = "SELECT position FROM log_head FOR UPDATE"

# The head, and what the commands of a batch are decided on, under the lock: an expression for each
# sort of need (log.store.kinds). $1 first event ids, $2 and so on those of the expressions
LOAD_BATCH = """
SELECT h.position, h.partitioned_to, GREATEST(clock_timestamp(), h.recorded_at) AS recorded_at,
       ARRAY(SELECT ROW(event_id, position)
             FROM event_ids WHERE event_id = ANY($1::uuid[])) AS recorded
       /* expressions */
FROM log_head h
"""

# Add the next partition of the log; returns the end of what is there then.
ADD_PARTITION = "SELECT add_event_partition()"

# Write a batch: events, their ids, what it changes of each kind of state (log.store.kinds), the
# head. One round trip. $1 base position, $2 recorded_at, $3-$9 events, $10 and so on those of the
# kinds
WRITE_BATCH = """
WITH batch AS (
    SELECT $1::bigint + n AS position, event_id, type, schema_version, session_id, subject_id,
           entry, leaf_hash
    FROM unnest($3::uuid[], $4::text[], $5::smallint[], $6::uuid[], $7::uuid[], $8::bytea[],
                $9::bytea[]) WITH ORDINALITY
         AS t (event_id, type, schema_version, session_id, subject_id, entry, leaf_hash, n)
), appended AS (
    INSERT INTO events (position, event_id, type, schema_version, session_id, subject_id,
                        recorded_at, entry, leaf_hash)
    SELECT position, event_id, type, schema_version, session_id, subject_id, $2::timestamptz,
           entry, leaf_hash
    FROM batch
), identified AS (
    INSERT INTO event_ids (event_id, position) SELECT event_id, position FROM batch
)/* parts */
UPDATE log_head SET position = $1::bigint + cardinality($3::uuid[]), recorded_at = $2::timestamptz
"""

# The head: the position of the last event and when it was recorded.
READ_HEAD = "SELECT position, recorded_at, epoch FROM log_head"

# Where commits wait for standbys: wait until these have all that could be read before, by a commit
# that comes later in the WAL. Elsewhere nothing is written.
SETTLE = """
SELECT pg_logical_emit_message(true, 'gatelog', ''::text)
WHERE current_setting('synchronous_standby_names') <> ''
"""

# Events after a position, in order. $1 position, $2 how many at most
READ_EVENTS = """
SELECT position, recorded_at, entry, leaf_hash
FROM events WHERE position > $1 ORDER BY position LIMIT $2
"""

# The event at a position, without its entry, to see that the log is still the same one; and those
# after it with when they were recorded. $1 position, $2 how many at most
FOLLOW_LOG = """
SELECT position, recorded_at, leaf_hash, CASE WHEN position > $1 THEN entry END AS entry
FROM events WHERE position >= $1 ORDER BY position LIMIT $2
"""

# Where the log ends, where it begins (NULL when there is nothing any more), and what was given up.
LOG_EDGES = """
SELECT position AS head, (SELECT position FROM events ORDER BY position LIMIT 1) AS first,
       (SELECT COALESCE(max(up_to), 0) FROM purges) AS cut
FROM log_head
"""

# How long ago these events were recorded, in seconds; of those that there are. $1 positions
AGES = """
SELECT position, extract(epoch FROM clock_timestamp() - recorded_at)::float8 AS age_s
FROM events WHERE position = ANY($1::bigint[])
"""

# --- retention: as the owner ---

# The newest purge: what lies up to it counts as gone.
READ_CUT = """
SELECT up_to, recorded_at, before, event_id, begun_at, finished_at
FROM purges ORDER BY up_to DESC LIMIT 1
"""

# --- check and rebuild: the projection against the log ---

# How far the log reaches. Used for progress only.
LAST_POSITION = "SELECT position FROM log_head"

# A page of the log with all its columns. $1 after, $2 how many
READ_ROWS = """
SELECT position, event_id, type, schema_version, session_id, subject_id, recorded_at, entry,
       leaf_hash
FROM events WHERE position > $1 ORDER BY position LIMIT $2
"""

# Event ids that do not stand where the log says, on either side. $1 after this position
WRONG_EVENT_IDS = """
SELECT COALESCE(e.event_id, i.event_id) AS event_id, e.position, i.position AS noted
FROM (SELECT event_id, position FROM events WHERE position > $1) AS e
FULL JOIN (SELECT event_id, position FROM event_ids WHERE position > $1) AS i
     ON i.event_id = e.event_id AND i.position = e.position
WHERE e.position IS NULL OR i.position IS NULL
LIMIT 100
"""

# Replicas made from a wrong projection, or from a log that was restored since, must start anew.
BUMP_EPOCH = "UPDATE log_head SET epoch = epoch + 1 RETURNING epoch"
