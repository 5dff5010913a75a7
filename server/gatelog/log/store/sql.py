"""The statements of the log: positions, the batch, and the projection held against them.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
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

# --- retention: as the owner ---

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
