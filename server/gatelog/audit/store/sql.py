"""The statements of marks, of what was active at a position, and of giving up old parts of the log.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

# --- as of: marks, written behind the log, and what was active at a position ---

# How far the marks reach, how many sessions the last one has; and how far the log does.
LAST_MARK = """
SELECT COALESCE(m.position, 0) AS position, COALESCE(cardinality(m.starts), 0) AS sessions,
       h.position AS head
FROM log_head h LEFT JOIN (
    SELECT position, starts FROM session_marks ORDER BY position DESC LIMIT 1) AS m ON true
"""

# The newest mark up to a position; 0 when there is none. $1 position
MARK_BEFORE = """
SELECT COALESCE((SELECT max(position) FROM session_marks WHERE position <= $1), 0) AS mark
"""

# Whatever the statistics say, what has ended is not gone through for each session. For this
# transaction.
JOIN_BY_HASH = """
SELECT set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true)
"""

# The next mark of the sessions: those of the one before and those that started since, without
# those that ended since. The rule is evolve's, which a test holds it to.
# $1 the mark before, $2 the position of this one
MARK_SESSIONS = """
INSERT INTO session_marks (position, starts)
WITH before AS MATERIALIZED (
    SELECT t.start FROM session_marks m, unnest(m.starts) AS t (start) WHERE m.position = $1
), cut AS MATERIALIZED (
    SELECT COALESCE(max(up_to), 0) AS position FROM purges
), started AS MATERIALIZED (
    SELECT b.start AS position, e.session_id
    FROM before b, cut c, LATERAL (
        SELECT session_id FROM events
        WHERE position = b.start AND position > c.position LIMIT 1) AS e
    UNION ALL
    SELECT b.start, r.session_id
    FROM before b, cut c, LATERAL (
        SELECT session_id FROM retained_sessions
        WHERE position = b.start AND position <= c.position LIMIT 1) AS r
    UNION ALL
    SELECT position, session_id FROM events
    WHERE type IN ('session_started', 'token_created') AND position > $1 AND position <= $2
), ended AS MATERIALIZED (
    SELECT session_id FROM events
    WHERE type = 'session_ended' AND position > $1 AND position <= $2
)
SELECT $2, COALESCE(array_agg(s.position ORDER BY s.position), '{}')
FROM started s LEFT JOIN ended e USING (session_id) WHERE e.session_id IS NULL
ON CONFLICT DO NOTHING
"""

# The events between two marks that may change a user. $1 the mark before, $2 this one, $3 types
READ_USER_EVENTS = """
SELECT position, entry FROM events
WHERE type = ANY($3::text[]) AND position > $1 AND position <= $2 ORDER BY position
"""

# These users as the marks have them. $1 users
MARKED_USERS = """
SELECT DISTINCT ON (subject_id)
       subject_id, registered_at, disabled, credential_version, roles, erased, factors
FROM user_marks WHERE subject_id = ANY($1::uuid[]) ORDER BY subject_id, position DESC
"""

# Write users at a mark. $1 position, $2-$8 columns; roles as comma-separated text
MARK_USERS = """
INSERT INTO user_marks (position, subject_id, registered_at, disabled, credential_version, roles,
                        erased, factors)
SELECT $1, subject_id, registered_at, disabled, credential_version, string_to_array(roles, ','),
       erased, factors
FROM unnest($2::uuid[], $3::timestamptz[], $4::boolean[], $5::integer[], $6::text[], $7::boolean[],
            $8::integer[])
     AS t (subject_id, registered_at, disabled, credential_version, roles, erased, factors)
ON CONFLICT DO NOTHING
"""

# A mark, to compare. $1 from this position on
NEXT_SESSION_MARK = """
SELECT position, starts FROM session_marks WHERE position >= $1 ORDER BY position LIMIT 1
"""
USERS_AT_MARK = """
SELECT subject_id, registered_at, disabled, credential_version, roles, erased, factors
FROM user_marks WHERE position = $1
"""

# The last position that was recorded up to a moment. $1 the moment and a microsecond
POSITION_AT = "SELECT first_position_from($1) - 1"

# When the event at a position was recorded. $1 position
RECORDED_AT = "SELECT recorded_at FROM events WHERE position = $1"

# Where sessions have started that may have been active at a position: those of the mark before it,
# and those since. The last ones first. $1 mark, $2 position, $3 before this one, $4 how many
STARTS_THEN = """
SELECT position FROM (
    (SELECT t.start AS position FROM session_marks m, unnest(m.starts) AS t (start)
     WHERE m.position = $1 AND t.start < $3 ORDER BY t.start DESC LIMIT $4)
    UNION ALL
    (SELECT position FROM events
     WHERE type = 'session_started' AND position > $1 AND position <= $2 AND position < $3
     ORDER BY position DESC LIMIT $4)
    UNION ALL
    (SELECT position FROM events
     WHERE type = 'token_created' AND position > $1 AND position <= $2 AND position < $3
     ORDER BY position DESC LIMIT $4)
) AS starts ORDER BY position DESC LIMIT $4
"""

# The starts in a mark, in order. $1 mark
MARKED_STARTS = "SELECT starts FROM session_marks WHERE position = $1"

# Where sessions of a user have started. $1 user, $2 from this position on, $3 before this one
STARTS_OF_USER = """
SELECT position FROM events
WHERE subject_id = $1 AND type IN ('session_started', 'token_created')
  AND position >= $2 AND position < $3
UNION
SELECT position FROM retained_sessions
WHERE subject_id = $1 AND position >= $2 AND position < $3
"""

# Of sessions that may have been active at a position, by their starts, those that had not ended:
# how they started, and how they ended since, or else when they are over unless they are used. The
# end is looked for close by first.
# $1 starts, $2 mark, $3 position, $4 how many, the last ones
SESSIONS_THEN = """
WITH cut AS MATERIALIZED (
    SELECT COALESCE(max(up_to), 0) AS position FROM purges
), ended AS MATERIALIZED (
    SELECT session_id FROM events
    WHERE type = 'session_ended' AND position > $2 AND position <= $3
), started AS MATERIALIZED (
    SELECT t.start AS position, COALESCE(s.session_id, r.session_id) AS session_id, s.entry,
           r.token_digest, r.subject_id, r.started_at, r.expires_at, r.roles, r.absolute_at,
           r.idle_s, r.seen_at, r.authenticated_at, r.amr, r.is_token
    FROM unnest($1::bigint[]) AS t (start) CROSS JOIN cut c
    LEFT JOIN LATERAL (
        SELECT session_id, entry FROM events
        WHERE position = t.start AND position > c.position LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (
        SELECT * FROM retained_sessions
        WHERE position = t.start AND position <= c.position LIMIT 1) AS r ON true
), active AS MATERIALIZED (
    SELECT s.* FROM started s LEFT JOIN ended e USING (session_id) WHERE e.session_id IS NULL
    ORDER BY s.position DESC LIMIT $4
)
SELECT a.*, COALESCE(x.position, y.position) AS ended_position, COALESCE(x.entry, y.entry) AS ended,
       n.expires_at AS now_over_at
FROM active a
LEFT JOIN LATERAL (
    SELECT position, entry FROM events
    WHERE session_id = a.session_id AND type = 'session_ended'
      AND position > $3 AND position <= $3::bigint + 1048576 LIMIT 1) AS x ON true
LEFT JOIN LATERAL (
    SELECT position, entry FROM events
    WHERE x.position IS NULL AND session_id = a.session_id AND type = 'session_ended'
      AND position > $3::bigint + 1048576 LIMIT 1) AS y ON true
LEFT JOIN LATERAL (
    SELECT expires_at FROM active_sessions WHERE session_id = a.session_id LIMIT 1) AS n ON true
ORDER BY a.position DESC
"""

# --- retention: as the owner ---

# Whether this role owns the log.
IS_OWNER = """
SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'events'::regclass
"""

# One purge at a time: true for the connection that has the lock now. $1 key
LOCK_PURGE = "SELECT pg_try_advisory_lock($1)"

# The last position that was recorded before a moment, the head, and how far the log is sealed.
# $1 moment
PURGEABLE = """
SELECT first_position_from($1) - 1 AS position, position AS head,
       COALESCE((SELECT max(size) FROM checkpoints), 0) AS sealed
FROM log_head
"""

# How many of the first tiles of the lowest level are there. $1 how many there should be
COUNT_TILES = "SELECT count(*) FROM tiles WHERE level = 0 AND tile_index < $1"

# The partitions of a table, by name, oldest first, with the first position beyond each; pending:
# half detached by somebody who was interrupted. $1 table
PARTITIONS_OF = r"""
SELECT c.relname AS name, i.inhdetachpending AS pending,
       substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \('?([0-9]+)'?\)$$)::bigint AS top
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = $1::text::regclass ORDER BY top
"""

# Tables that were detached and not dropped. $1 table, $2 first positions up to this one
DETACHED_FROM = """
SELECT c.relname AS name FROM pg_class p JOIN pg_class c ON c.relnamespace = p.relnamespace
WHERE p.oid = $1::text::regclass AND c.relkind = 'r'
  AND c.relname ~ ('^' || p.relname || '_[0-9]+$')
  AND substring(c.relname FROM '[0-9]+$')::bigint <= $2
  AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
ORDER BY 1
"""

# Take a partition out, without a lock that an append waits for; finish that; drop what was taken
# out. Not in a transaction. {} table, name of the partition; names of tables
DETACH = 'ALTER TABLE {} DETACH PARTITION "{}" CONCURRENTLY'
FINISH_DETACH = 'ALTER TABLE {} DETACH PARTITION "{}" FINALIZE'
DROP = "DROP TABLE {}"

# A page of the starts in the mark at a cut, with their events where these are there.
# $1 mark, $2 after this position, $3 how many
STARTS_AT_CUT = """
SELECT s.start, e.entry
FROM (SELECT t.start FROM session_marks m, unnest(m.starts) AS t (start)
      WHERE m.position = $1 AND t.start > $2 ORDER BY t.start LIMIT $3) AS s
LEFT JOIN LATERAL (SELECT entry FROM events WHERE position = s.start LIMIT 1) AS e ON true
ORDER BY s.start
"""

# Keep sessions beyond their start. $1-$13 columns; roles and amr as comma-separated text
RETAIN_SESSIONS = """
INSERT INTO retained_sessions (position, token_digest, session_id, subject_id, started_at,
                               expires_at, roles, absolute_at, idle_s, seen_at, authenticated_at,
                               amr, is_token)
SELECT position, token_digest, session_id, subject_id, started_at, expires_at,
       string_to_array(roles, ','), absolute_at, idle_s, seen_at, authenticated_at,
       string_to_array(amr, ','), is_token
FROM unnest($1::bigint[], $2::bytea[], $3::uuid[], $4::uuid[], $5::timestamptz[],
            $6::timestamptz[], $7::text[], $8::timestamptz[], $9::integer[], $10::timestamptz[],
            $11::timestamptz[], $12::text[], $13::boolean[])
     AS t (position, token_digest, session_id, subject_id, started_at, expires_at, roles,
           absolute_at, idle_s, seen_at, authenticated_at, amr, is_token)
ON CONFLICT DO NOTHING
"""

# A page of the events that say which sessions are used, of what is about to be given up.
# $1 after this position, $2 up to this one, $3 how many
READ_RENEWALS = """
SELECT position, entry FROM events
WHERE type = 'sessions_renewed' AND position > $1 AND position <= $2 ORDER BY position LIMIT $3
"""

# Kept sessions have been used up to the cut; a token perhaps for the first time.
# $1 digests, $2 when each of them was used last
RETAIN_USE = """
UPDATE retained_sessions
SET seen_at = t.seen_at,
    expires_at = LEAST(absolute_at, t.seen_at + idle_s * interval '1 second')
FROM unnest($1::bytea[], $2::timestamptz[]) AS t (token_digest, seen_at)
WHERE retained_sessions.token_digest = t.token_digest
  AND COALESCE(retained_sessions.seen_at < t.seen_at, is_token)
"""

# From its commit on, what lies up to here counts as gone.
# $1 up to, $2 before, $3 event id, $4 now
BEGIN_PURGE = """
INSERT INTO purges (up_to, recorded_at, before, event_id, begun_at)
SELECT $1, recorded_at, $2, $3, $4 FROM events WHERE position = $1
"""

# What is of no use after a cut: marks before it, sessions that it does not have. $1 up to
FORGET_MARKS = "DELETE FROM session_marks WHERE position < $1"
FORGET_RETAINED = """
DELETE FROM retained_sessions WHERE position NOT IN (
    SELECT t.start FROM session_marks m, unnest(m.starts) AS t (start) WHERE m.position = $1)
"""

# The purge is complete. $1 up to, $2 now
FINISH_PURGE = "UPDATE purges SET finished_at = $2 WHERE up_to = $1"
