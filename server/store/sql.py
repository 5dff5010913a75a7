"""Every SQL statement of the service, each with a name and what it is for.

A test prepares each against the migrated schema. Moments and ids come in as parameters; the one
clock that is read here is PostgreSQL's own, for ``recorded_at``.
"""

# The schema version that the database has.
SCHEMA_VERSION = "SELECT version_num FROM gatelog_schema"

# The oldest schema whose programs can work on this one; NULL where nothing is known of it.
OLDEST_SERVED = "SELECT obj_description('gatelog_schema'::regclass, 'pg_class')"

# --- the event log ---

# Take the lock that orders all appends. Runs by the simple protocol, together with its BEGIN; the
# state is read by a later statement, whose snapshot then is younger than the lock.
LOCK_HEAD = "SELECT position FROM log_head FOR UPDATE"

# The head and what the commands of a batch are decided on, under the lock.
# $1 users wanted, $2 users whose sessions are wanted, $3 users whose sessions are wanted when
# there are more than $4 of them, $5 logins asked for, $6 first event ids, $7 how many of the
# administrators
LOAD_WORLD = """
SELECT h.position, h.partitioned_to,
       GREATEST(clock_timestamp(), h.recorded_at) AS recorded_at,
       EXISTS (SELECT FROM users) AS populated,
       (SELECT master_key_id FROM key_ring) AS master_key_id,
       ARRAY(SELECT ROW(subject_id, registered_at, disabled, credential_version, roles, erased)
             FROM users WHERE subject_id = ANY($1::uuid[])) AS users,
       ARRAY(SELECT ROW(session_id, subject_id, token_digest, started_at, expires_at, roles)
             FROM active_sessions WHERE subject_id = ANY($2::uuid[])
             UNION ALL
             SELECT ROW(session_id, s.subject_id, token_digest, started_at, expires_at, roles)
             FROM (SELECT subject_id FROM active_sessions WHERE subject_id = ANY($3::uuid[])
                   GROUP BY subject_id HAVING count(*) > $4) crowded
             JOIN active_sessions s USING (subject_id)) AS sessions,
       ARRAY(SELECT ROW(login, subject_id)
             FROM credentials WHERE login = ANY($5::text[])) AS logins,
       ARRAY(SELECT subject_id FROM users
             WHERE 'admin' = ANY (roles) AND NOT disabled LIMIT $7) AS admins,
       ARRAY(SELECT ROW(event_id, position)
             FROM event_ids WHERE event_id = ANY($6::uuid[])) AS recorded
FROM log_head h
"""

# Add the next partition of the log; returns the end of what is there then.
ADD_PARTITION = "SELECT add_event_partition()"

# Write a batch: events, their ids, both projections, credentials, keys, the blind index over
# addresses, the head. One round trip.
# $1 base position, $2 recorded_at, $3-$9 events, $10-$15 sessions put, $16 sessions dropped,
# $17-$22 users, $23-$27 new credentials and keys, $28-$29 replaced password hashes,
# $30-$32 addresses.
# Roles come as comma-separated text, because unnest would flatten an array of arrays.
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
), put AS (
    INSERT INTO active_sessions (token_digest, session_id, subject_id, started_at, expires_at,
                                 roles)
    SELECT token_digest, session_id, subject_id, started_at, expires_at,
           string_to_array(roles, ',')
    FROM unnest($10::bytea[], $11::uuid[], $12::uuid[], $13::timestamptz[], $14::timestamptz[],
                $15::text[])
         AS t (token_digest, session_id, subject_id, started_at, expires_at, roles)
), dropped AS (
    DELETE FROM active_sessions WHERE token_digest = ANY($16::bytea[])
), changed AS (
    INSERT INTO users (subject_id, registered_at, disabled, credential_version, roles, erased)
    SELECT subject_id, registered_at, disabled, credential_version, string_to_array(roles, ','),
           erased
    FROM unnest($17::uuid[], $18::timestamptz[], $19::boolean[], $20::integer[], $21::text[],
                $22::boolean[])
         AS t (subject_id, registered_at, disabled, credential_version, roles, erased)
    ON CONFLICT (subject_id) DO UPDATE
    SET disabled = EXCLUDED.disabled, credential_version = EXCLUDED.credential_version,
        roles = EXCLUDED.roles, erased = EXCLUDED.erased
), credentialed AS (
    INSERT INTO credentials (subject_id, login, password_hash, changed_at)
    SELECT subject_id, login, password_hash, $2::timestamptz
    FROM unnest($23::uuid[], $24::text[], $25::text[]) AS t (subject_id, login, password_hash)
), keyed AS (
    INSERT INTO subject_keys (subject_id, wrapped_key, master_key_id)
    SELECT subject_id, wrapped_key, master_key_id
    FROM unnest($23::uuid[], $26::bytea[], $27::bytea[])
         AS t (subject_id, wrapped_key, master_key_id)
), rehashed AS (
    UPDATE credentials SET password_hash = t.password_hash, changed_at = $2::timestamptz
    FROM unnest($28::uuid[], $29::text[]) AS t (subject_id, password_hash)
    WHERE credentials.subject_id = t.subject_id
), traced AS (
    INSERT INTO event_addresses (address_index, position, subject_id)
    SELECT address_index, position, subject_id
    FROM unnest($30::bytea[], $31::bigint[], $32::uuid[])
         AS t (address_index, position, subject_id)
)
UPDATE log_head SET position = $1::bigint + cardinality($3::uuid[]), recorded_at = $2::timestamptz
"""

# Forget persons: everything but their events and their empty rows in users. Runs before their
# batch is written, because another user may take the login in the same batch. $1 users
ERASE = """
WITH uncredentialed AS (
    DELETE FROM credentials WHERE subject_id = ANY($1::uuid[])
), unkeyed AS (
    DELETE FROM subject_keys WHERE subject_id = ANY($1::uuid[])
)
DELETE FROM event_addresses WHERE subject_id = ANY($1::uuid[])
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

# --- sessions ---

# The active sessions behind these token digests. $1 digests
FIND_SESSIONS = """
SELECT token_digest, session_id, subject_id, started_at, expires_at, roles
FROM active_sessions WHERE token_digest = ANY($1::bytea[])
"""

# One session by its digest together with the head's position, in one snapshot, and the key of its
# user. $1 digests
FIND_SESSIONS_AT_HEAD = """
SELECT h.position, s.token_digest, s.session_id, s.subject_id, s.started_at, s.expires_at, s.roles,
       k.wrapped_key, k.master_key_id
FROM log_head h
LEFT JOIN active_sessions s ON s.token_digest = ANY($1::bytea[])
LEFT JOIN subject_keys k ON k.subject_id = s.subject_id
"""

# The active sessions of a user, oldest first. $1 user, $2 now
LIST_SESSIONS_OF = """
SELECT token_digest, session_id, subject_id, started_at, expires_at, roles
FROM active_sessions WHERE subject_id = $1 AND expires_at > $2
ORDER BY started_at, session_id LIMIT 1000
"""

# A page of active sessions by id. $1 after this id, $2 how many, $3 now
LIST_SESSIONS = """
SELECT token_digest, session_id, subject_id, started_at, expires_at, roles
FROM active_sessions WHERE session_id > $1 AND expires_at > $3 ORDER BY session_id LIMIT $2
"""

# The same for one session by its public id. $1 session
FIND_SESSION = """
SELECT h.position, s.token_digest, s.session_id, s.subject_id, s.started_at, s.expires_at, s.roles,
       k.wrapped_key, k.master_key_id
FROM log_head h
LEFT JOIN active_sessions s ON s.session_id = $1
LEFT JOIN subject_keys k ON k.subject_id = s.subject_id
"""

# Users with sessions whose time is over. $1 now, $2 how many at most
EXPIRED_SUBJECTS = """
SELECT DISTINCT subject_id FROM (
    SELECT subject_id FROM active_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2
) AS over
"""

# A page of the users who have sessions. $1 after this id, $2 how many
SUBJECTS_WITH_SESSIONS = """
SELECT DISTINCT subject_id FROM active_sessions WHERE subject_id > $1
ORDER BY subject_id LIMIT $2
"""

# --- users and credentials ---

# What a login is verified against. $1 login
FIND_CREDENTIAL = """
SELECT u.subject_id, c.login, c.password_hash, u.disabled, u.credential_version, u.roles,
       k.wrapped_key, k.master_key_id
FROM credentials c JOIN users u USING (subject_id) LEFT JOIN subject_keys k USING (subject_id)
WHERE c.login = $1
"""

# The same, by user. $1 user
FIND_CREDENTIAL_OF = """
SELECT u.subject_id, c.login, c.password_hash, u.disabled, u.credential_version, u.roles,
       k.wrapped_key, k.master_key_id
FROM credentials c JOIN users u USING (subject_id) LEFT JOIN subject_keys k USING (subject_id)
WHERE u.subject_id = $1
"""

# Whether there is such a user, erased or not. $1 user
FIND_USER = """
SELECT subject_id, registered_at, disabled, credential_version, roles, erased
FROM users WHERE subject_id = $1
"""

# Put a password's hash under new parameters, unless it changed meanwhile. $1 user, $2 old, $3 new
REPLACE_HASH = """
UPDATE credentials SET password_hash = $3 WHERE subject_id = $1 AND password_hash = $2
"""

# A page of users by id, with their logins. $1 after this id, $2 how many
LIST_USERS = """
SELECT u.subject_id, c.login, u.registered_at, u.disabled, u.roles, u.erased
FROM users u LEFT JOIN credentials c USING (subject_id)
WHERE u.subject_id > $1 ORDER BY u.subject_id LIMIT $2
"""

# --- personal data: keys and the blind index over addresses ---

# Which master key is current, and the wrapped key of the blind index.
READ_KEY_RING = "SELECT master_key_id, address_key FROM key_ring"

# Make the ring; whoever comes second changes nothing. $1 master key id, $2 wrapped address key
CREATE_KEY_RING = """
INSERT INTO key_ring (master_key_id, address_key) VALUES ($1, $2) ON CONFLICT DO NOTHING
"""

# The keys of these users, as far as there are any. $1 users
READ_SUBJECT_KEYS = """
SELECT subject_id, wrapped_key, master_key_id FROM subject_keys WHERE subject_id = ANY($1::uuid[])
"""

# The keys of these days, as far as there are any. $1 days
READ_DAY_KEYS = """
SELECT day, wrapped_key, master_key_id FROM day_keys WHERE day = ANY($1::date[])
"""

# Make the key of a day, with the master key that is current now and stays so until the commit;
# whoever comes second changes nothing. $1 day, $2 wrapped key, $3 master key id
CREATE_DAY_KEY = """
INSERT INTO day_keys (day, wrapped_key, master_key_id, head_position)
SELECT $1, $2, r.master_key_id, h.position
FROM (SELECT master_key_id FROM key_ring WHERE master_key_id = $3 FOR SHARE) r, log_head h
ON CONFLICT DO NOTHING
"""

# Destroy the keys of the days before this one. $1 day
DESTROY_DAY_KEYS = "DELETE FROM day_keys WHERE day < $1"

# Up to which position nothing is left that a day's key opens. $1 the first day whose key stays
LAST_SEALED_FOR_NOBODY = """
SELECT COALESCE((SELECT min(head_position) FROM day_keys WHERE day >= $1), position) AS position
FROM log_head
"""

# Clear the blind index of nobody's events, some at a time. $1 up to this position, $2 how many
CLEAR_NOBODYS_ADDRESSES = """
DELETE FROM event_addresses WHERE subject_id IS NULL AND position <= (
    SELECT max(position) FROM (
        SELECT position FROM event_addresses WHERE subject_id IS NULL AND position <= $1
        ORDER BY position LIMIT $2) AS first)
"""

# Clear the blind index of a user's events, some at a time, the oldest first. $1 user, $2 how many
CLEAR_ADDRESSES_OF = """
DELETE FROM event_addresses WHERE subject_id = $1 AND position <= (
    SELECT max(position) FROM (
        SELECT position FROM event_addresses WHERE subject_id = $1
        ORDER BY position LIMIT $2) AS first)
"""

# --- rotation of the master key ---

# One rotation at a time. $1 an arbitrary constant
LOCK_ROTATION = "SELECT pg_try_advisory_lock($1)"

# Wrap new keys with another master key from now on; under the lock of the head, so that no batch
# is between its decision and its commit. $1 new master key id, $2 address key, $3 old id
CHANGE_MASTER_KEY = """
UPDATE key_ring SET master_key_id = $1, address_key = $2 WHERE master_key_id = $3
"""

# Keys of users by id, to wrap them anew. $1 after this id, $2 how many
PAGE_OF_SUBJECT_KEYS = """
SELECT subject_id, wrapped_key, master_key_id FROM subject_keys
WHERE subject_id > $1 ORDER BY subject_id LIMIT $2
"""

# How many keys of users there are.
COUNT_SUBJECT_KEYS = "SELECT count(*) FROM subject_keys"

# All keys of days: there are not many.
ALL_DAY_KEYS = "SELECT day, wrapped_key, master_key_id FROM day_keys"

# Put keys under the new master key, unless they are gone. $1 users, $2 new wrapped keys, $3 new
# master key id
REWRAP_SUBJECT_KEYS = """
UPDATE subject_keys k SET wrapped_key = t.fresh, master_key_id = $3
FROM unnest($1::uuid[], $2::bytea[]) AS t (subject_id, fresh) WHERE k.subject_id = t.subject_id
"""

# The same for days. $1 days, $2 new wrapped keys, $3 new master key id
REWRAP_DAY_KEYS = """
UPDATE day_keys k SET wrapped_key = t.fresh, master_key_id = $3
FROM unnest($1::date[], $2::bytea[]) AS t (day, fresh) WHERE k.day = t.day
"""

# Whether any key is wrapped with another master key than the current one.
ANY_OLD_KEY = """
SELECT EXISTS (SELECT FROM subject_keys k, key_ring r WHERE k.master_key_id <> r.master_key_id)
    OR EXISTS (SELECT FROM day_keys k, key_ring r WHERE k.master_key_id <> r.master_key_id)
"""

# Take the pages' dead rows away; what was erased lies there until then. As the owner.
VACUUM_ERASED = (
    "VACUUM credentials",
    "VACUUM subject_keys",
    "VACUUM event_addresses",
)

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
    WHERE type = 'session_started' AND position > $1 AND position <= $2
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
       subject_id, registered_at, disabled, credential_version, roles, erased
FROM user_marks WHERE subject_id = ANY($1::uuid[]) ORDER BY subject_id, position DESC
"""

# Write users at a mark. $1 position, $2-$7 columns; roles as comma-separated text
MARK_USERS = """
INSERT INTO user_marks (position, subject_id, registered_at, disabled, credential_version, roles,
                        erased)
SELECT $1, subject_id, registered_at, disabled, credential_version, string_to_array(roles, ','),
       erased
FROM unnest($2::uuid[], $3::timestamptz[], $4::boolean[], $5::integer[], $6::text[], $7::boolean[])
     AS t (subject_id, registered_at, disabled, credential_version, roles, erased)
ON CONFLICT DO NOTHING
"""

# A mark, to compare. $1 from this position on
NEXT_SESSION_MARK = """
SELECT position, starts FROM session_marks WHERE position >= $1 ORDER BY position LIMIT 1
"""
USERS_AT_MARK = """
SELECT subject_id, registered_at, disabled, credential_version, roles, erased
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
) AS starts ORDER BY position DESC LIMIT $4
"""

# The starts in a mark, in order. $1 mark
MARKED_STARTS = "SELECT starts FROM session_marks WHERE position = $1"

# Where sessions of a user have started. $1 user, $2 from this position on, $3 before this one
STARTS_OF_USER = """
SELECT position FROM events
WHERE subject_id = $1 AND type = 'session_started' AND position >= $2 AND position < $3
UNION
SELECT position FROM retained_sessions
WHERE subject_id = $1 AND position >= $2 AND position < $3
"""

# Of sessions that may have been active at a position, by their starts, those that had not ended:
# how they started, and how they ended since. The end is looked for close by first.
# $1 starts, $2 mark, $3 position, $4 how many, the last ones
SESSIONS_THEN = """
WITH cut AS MATERIALIZED (
    SELECT COALESCE(max(up_to), 0) AS position FROM purges
), ended AS MATERIALIZED (
    SELECT session_id FROM events
    WHERE type = 'session_ended' AND position > $2 AND position <= $3
), started AS MATERIALIZED (
    SELECT t.start AS position, COALESCE(s.session_id, r.session_id) AS session_id, s.entry,
           r.token_digest, r.subject_id, r.started_at, r.expires_at, r.roles
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
SELECT a.*, COALESCE(x.position, y.position) AS ended_position, COALESCE(x.entry, y.entry) AS ended
FROM active a
LEFT JOIN LATERAL (
    SELECT position, entry FROM events
    WHERE session_id = a.session_id AND type = 'session_ended'
      AND position > $3 AND position <= $3::bigint + 1048576 LIMIT 1) AS x ON true
LEFT JOIN LATERAL (
    SELECT position, entry FROM events
    WHERE x.position IS NULL AND session_id = a.session_id AND type = 'session_ended'
      AND position > $3::bigint + 1048576 LIMIT 1) AS y ON true
ORDER BY a.position DESC
"""

# --- retention: as the owner ---

# The newest purge: what lies up to it counts as gone.
READ_CUT = """
SELECT up_to, recorded_at, before, event_id, begun_at, finished_at
FROM purges ORDER BY up_to DESC LIMIT 1
"""

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

# Keep sessions beyond their start. $1-$7 columns; roles as comma-separated text
RETAIN_SESSIONS = """
INSERT INTO retained_sessions (position, token_digest, session_id, subject_id, started_at,
                               expires_at, roles)
SELECT position, token_digest, session_id, subject_id, started_at, expires_at,
       string_to_array(roles, ',')
FROM unnest($1::bigint[], $2::bytea[], $3::uuid[], $4::uuid[], $5::timestamptz[],
            $6::timestamptz[], $7::text[])
     AS t (position, token_digest, session_id, subject_id, started_at, expires_at, roles)
ON CONFLICT DO NOTHING
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

# The state at the cut: sessions, users. $1 up to
SESSIONS_AT_CUT = """
SELECT r.position, r.token_digest, r.session_id, r.subject_id, r.started_at, r.expires_at, r.roles
FROM session_marks m, unnest(m.starts) AS t (start) JOIN retained_sessions r ON r.position = t.start
WHERE m.position = $1
"""
USERS_AT_CUT = """
SELECT DISTINCT ON (subject_id)
       subject_id, registered_at, disabled, credential_version, roles, erased
FROM user_marks WHERE position <= $1 ORDER BY subject_id, position DESC
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

# The whole projection, to compare.
ALL_SESSIONS = """
SELECT token_digest, session_id, subject_id, started_at, expires_at, roles FROM active_sessions
"""
ALL_USERS = """
SELECT subject_id, registered_at, disabled, credential_version, roles, erased FROM users
"""

# Erased users of whom something is left, and users without a key, told by name of the table.
WRONG_KEYS = """
SELECT t.name, t.subject_id, u.erased
FROM (SELECT 'credentials' AS name, subject_id FROM credentials
      UNION ALL SELECT 'subject_keys', subject_id FROM subject_keys
      UNION ALL SELECT DISTINCT 'event_addresses', subject_id FROM event_addresses
                WHERE subject_id IN (SELECT subject_id FROM users WHERE erased)) AS t
JOIN users u USING (subject_id) WHERE u.erased
UNION ALL
SELECT 'subject_keys', u.subject_id, false
FROM users u WHERE NOT u.erased AND NOT EXISTS (
    SELECT FROM subject_keys k WHERE k.subject_id = u.subject_id)
LIMIT 100
"""

# The tables that a rebuild fills beside the real ones. They are gone with its connection.
CREATE_REBUILD_TABLES = """
CREATE TEMPORARY TABLE rebuilt_sessions (LIKE active_sessions INCLUDING INDEXES);
CREATE TEMPORARY TABLE rebuilt_users (LIKE users INCLUDING INDEXES);
"""
REBUILT_SESSIONS = "rebuilt_sessions"
REBUILT_USERS = "rebuilt_users"

# Take back what the last stretch of the log changed again. $1 digests
FORGET_REBUILT_SESSIONS = "DELETE FROM rebuilt_sessions WHERE token_digest = ANY($1::bytea[])"
FORGET_REBUILT_USERS = "DELETE FROM rebuilt_users"

# Make the real tables what the rebuilt ones are, under the head's lock: readers see the one or the
# other. Only rows that differ are touched. Run by the simple protocol, in this order.
SWAP_IN = (
    "ANALYZE rebuilt_sessions; ANALYZE rebuilt_users",
    """
    DELETE FROM active_sessions a WHERE NOT EXISTS (
        SELECT FROM rebuilt_sessions r
        WHERE r.token_digest = a.token_digest
          AND (r.session_id, r.subject_id, r.started_at, r.expires_at, r.roles)
            = (a.session_id, a.subject_id, a.started_at, a.expires_at, a.roles))
    """,
    """
    INSERT INTO active_sessions SELECT * FROM rebuilt_sessions r WHERE NOT EXISTS (
        SELECT FROM active_sessions a WHERE a.token_digest = r.token_digest)
    """,
    """
    DELETE FROM users u WHERE NOT EXISTS (
        SELECT FROM rebuilt_users r
        WHERE r.subject_id = u.subject_id
          AND (r.registered_at, r.disabled, r.credential_version, r.roles, r.erased)
            = (u.registered_at, u.disabled, u.credential_version, u.roles, u.erased))
    """,
    """
    INSERT INTO users SELECT * FROM rebuilt_users r WHERE NOT EXISTS (
        SELECT FROM users u WHERE u.subject_id = r.subject_id)
    """,
)

# Replicas made from a wrong projection, or from a log that was restored since, must start anew.
BUMP_EPOCH = "UPDATE log_head SET epoch = epoch + 1 RETURNING epoch"

# --- replicas and their leases ---

# What positions mean: the cluster, its timeline, and a number that a restored backup moves on.
# The timeline is that of the WAL being written: the one in the control file lags a promotion, and
# on a standby, where nothing may be trusted, this fails.
READ_EPOCH = """
SELECT c.system_identifier || '.' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
       || '.' || h.epoch
FROM pg_control_system() c, log_head h
"""

# Join or renew: write the own row. $1 replica, $2 host, $3 renewal_seq, $4 applied position,
# $5 epoch, $6 ttl in ms, $7 active sessions
WRITE_LEASE = """
INSERT INTO replica_lease AS r (replica_id, host, renewal_seq, applied_position, epoch, ttl_ms,
                                renewed_at, sessions)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp(), $7)
ON CONFLICT (replica_id) DO UPDATE
SET host = EXCLUDED.host, renewal_seq = EXCLUDED.renewal_seq,
    applied_position = GREATEST(r.applied_position, EXCLUDED.applied_position),
    epoch = EXCLUDED.epoch, ttl_ms = EXCLUDED.ttl_ms, renewed_at = EXCLUDED.renewed_at,
    sessions = EXCLUDED.sessions
RETURNING xmax = 0 AS joined
"""

# The head and the epoch, and the hash of the event that a replica has applied last. Runs after
# the row's commit, as a statement of its own. $1 applied position
READ_HEAD_AND_EPOCH = f"""
SELECT h.position, ({READ_EPOCH}) AS epoch, e.leaf_hash
FROM log_head h LEFT JOIN events e ON e.position = $1
"""  # noqa: S608

# All leases together with the head and the epoch, in one snapshot.
READ_LEASES = f"""
SELECT h.position AS head, ({READ_EPOCH}) AS epoch, r.replica_id, r.host, r.renewal_seq,
       r.applied_position, r.epoch AS replica_epoch, r.ttl_ms, r.sessions,
       clock_timestamp() - r.renewed_at AS age
FROM log_head h LEFT JOIN replica_lease r ON true
"""  # noqa: S608

# Say how far a replica has got. Need not survive a crash. $1 replica, $2 epoch, $3 position
ACKNOWLEDGE = """
UPDATE replica_lease SET applied_position = $3
WHERE replica_id = $1 AND epoch = $2 AND applied_position < $3
"""

# Remove a row that has not moved. $1 replica, $2 the renewal_seq that was seen all the time
REAP_LEASE = "DELETE FROM replica_lease WHERE replica_id = $1 AND renewal_seq = $2"

# Remove the own row; its lease has been ended in the replica. $1 replica
LEAVE = "DELETE FROM replica_lease WHERE replica_id = $1"

# The event at a position, without its entry, to see that the log is still the same one; and those
# after it. $1 position, $2 how many at most
READ_TAIL = """
SELECT position, leaf_hash, CASE WHEN position > $1 THEN entry END AS entry
FROM events WHERE position >= $1 ORDER BY position LIMIT $2
"""

# Read the whole table and sort it: measured three times as quick for a million sessions as going
# through the index, whose order has nothing to do with where the rows lie. For this transaction.
SORT_SESSIONS = """
SELECT set_config('enable_indexscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true),
       set_config('work_mem', '64MB', true)
"""

# All sessions in the order of the replica, each as its packed record (server.core.sessions). 262968
# hours lie between 1970, from which the record counts, and 2000, from which PostgreSQL does.
COPY_SESSIONS = """
SELECT token_digest,
       '\\x01'::bytea || timestamptz_send(expires_at + interval '262968 hours')
       || uuid_send(session_id) || uuid_send(subject_id)
       || timestamptz_send(started_at + interval '262968 hours')
       || textsend(array_to_string(roles, ','))
FROM active_sessions ORDER BY token_digest
"""

# Wakes whoever follows the log; carries nothing, and nothing depends on it.
NOTIFY_LOG = "NOTIFY gatelog_log"

# Acknowledgements need not wait for the disk, renewals must, whatever the server's default.
COMMIT_WITHOUT_WAITING = "SET synchronous_commit = off"
COMMIT_DURABLY = "SET synchronous_commit = on"

# --- tiles and checkpoints ---

# One sealer in the cluster: true for the connection that has it now, until it ends. $1 key
TAKE_SEALER_LOCK = "SELECT pg_try_advisory_lock($1)"

# The next leaf hashes as one string, and how far the log reaches; one row, NULLs where there are
# none. Bulk, because a sealer must keep up with many appenders. $1 after this position, $2 how many
NEXT_LEAVES = """
SELECT h.position AS head, t.first, t.last, t.hashes
FROM log_head h, (
    SELECT min(position) AS first, max(position) AS last,
           string_agg(leaf_hash, ''::bytea ORDER BY position) AS hashes
    FROM (SELECT position, leaf_hash FROM events WHERE position > $1 ORDER BY position LIMIT $2)
         AS page
) AS t
"""

# Write tiles, and the checkpoint of the tree that they belong to (no row for NULL). A tile that
# is there already may only grow; a trigger refuses anything else.
# $1 levels, $2 indexes, $3 hashes, $4 size, $5 note, $6 signed_at
WRITE_SEAL = """
WITH grown AS (
    INSERT INTO tiles (level, tile_index, hashes)
    SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
    ON CONFLICT (level, tile_index) DO UPDATE SET hashes = EXCLUDED.hashes
    WHERE tiles.hashes <> EXCLUDED.hashes
)
INSERT INTO checkpoints (size, note, signed_at)
SELECT $4::bigint, $5::bytea, $6::timestamptz WHERE $5::bytea IS NOT NULL
"""

# These tiles, those of them that are there. $1 levels, $2 indexes
READ_TILES = """
SELECT level, tile_index, hashes FROM tiles
WHERE (level, tile_index) IN (SELECT * FROM unnest($1::smallint[], $2::bigint[]))
"""

# A page of one level. $1 level, $2 from this index on, $3 how many
READ_LEVEL = """
SELECT tile_index, hashes FROM tiles
WHERE level = $1 AND tile_index >= $2 ORDER BY tile_index LIMIT $3
"""

# How far the tiles of each level reach; a probe of the index for each level.
LAST_TILES = """
SELECT l.level, t.tile_index, t.width
FROM generate_series(0, 63) AS l (level), LATERAL (
    SELECT tile_index, octet_length(hashes) / 32 AS width
    FROM tiles WHERE level = l.level ORDER BY tile_index DESC LIMIT 1
) AS t
"""

# The newest checkpoint.
LAST_CHECKPOINT = "SELECT size, note, signed_at FROM checkpoints ORDER BY size DESC LIMIT 1"

# How far the log reaches, and the checkpoint of this size, NULL where there is none. $1 size
HEAD_AND_CHECKPOINT = """
SELECT h.position, c.note FROM log_head h LEFT JOIN checkpoints c ON c.size = $1
"""

# A page of the checkpoints, in order. $1 after this size, $2 how many
READ_CHECKPOINTS = """
SELECT size, note, signed_at FROM checkpoints WHERE size > $1 ORDER BY size LIMIT $2
"""

# Entries, in order, those of them that are still there. $1 first position, $2 last position
READ_ENTRIES = """
SELECT position, entry FROM events WHERE position BETWEEN $1 AND $2 ORDER BY position
"""

# The same with what is stored as their hashes, for verification.
READ_LEAVES = """
SELECT position, entry, leaf_hash FROM events
WHERE position BETWEEN $1 AND $2 ORDER BY position
"""

# The newest event that is there, whatever the head says.
LAST_EVENT = "SELECT position FROM events ORDER BY position DESC LIMIT 1"
