"""Every SQL statement of the service, each with a name and what it is for.

A test prepares each against the migrated schema. Moments and ids come in as parameters; the one
clock that is read here is PostgreSQL's own, for ``recorded_at``.
"""

# The schema version that the database has.
SCHEMA_VERSION = "SELECT version_num FROM gatelog_schema"

# --- the event log ---

# Take the lock that orders all appends. Runs by the simple protocol, together with its BEGIN; the
# state is read by a later statement, whose snapshot then is younger than the lock.
LOCK_HEAD = "SELECT position FROM log_head FOR UPDATE"

# The head and what the commands of a batch are decided on, under the lock.
# $1 users wanted, $2 users whose sessions are wanted, $3 users whose sessions are wanted when
# there are more than $4 of them, $5 logins asked for, $6 first event ids
LOAD_WORLD = """
SELECT h.position, h.partitioned_to,
       GREATEST(clock_timestamp(), h.recorded_at) AS recorded_at,
       EXISTS (SELECT FROM users) AS populated,
       ARRAY(SELECT ROW(subject_id, registered_at, disabled, credential_version, roles)
             FROM users WHERE subject_id = ANY($1::uuid[])) AS users,
       ARRAY(SELECT ROW(session_id, subject_id, token_digest, started_at, expires_at, roles)
             FROM active_sessions WHERE subject_id = ANY($2::uuid[]) OR subject_id IN (
                 SELECT subject_id FROM active_sessions WHERE subject_id = ANY($3::uuid[])
                 GROUP BY subject_id HAVING count(*) > $4)) AS sessions,
       ARRAY(SELECT ROW(login, subject_id)
             FROM credentials WHERE login = ANY($5::text[])) AS logins,
       ARRAY(SELECT ROW(event_id, position)
             FROM event_ids WHERE event_id = ANY($6::uuid[])) AS recorded
FROM log_head h
"""

# Add the next partition of the log; returns the end of what is there then.
ADD_PARTITION = "SELECT add_event_partition()"

# Write a batch: events, their ids, both projections, credentials, the head. One round trip.
# $1 base position, $2 recorded_at, $3-$9 events, $10-$15 sessions put, $16 sessions dropped,
# $17-$21 users, $22-$24 new credentials, $25-$26 replaced password hashes.
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
    INSERT INTO users (subject_id, registered_at, disabled, credential_version, roles)
    SELECT subject_id, registered_at, disabled, credential_version, string_to_array(roles, ',')
    FROM unnest($17::uuid[], $18::timestamptz[], $19::boolean[], $20::integer[], $21::text[])
         AS t (subject_id, registered_at, disabled, credential_version, roles)
    ON CONFLICT (subject_id) DO UPDATE
    SET disabled = EXCLUDED.disabled, credential_version = EXCLUDED.credential_version,
        roles = EXCLUDED.roles
), credentialed AS (
    INSERT INTO credentials (subject_id, login, password_hash, changed_at)
    SELECT subject_id, login, password_hash, $2::timestamptz
    FROM unnest($22::uuid[], $23::text[], $24::text[]) AS t (subject_id, login, password_hash)
), rehashed AS (
    UPDATE credentials SET password_hash = t.password_hash, changed_at = $2::timestamptz
    FROM unnest($25::uuid[], $26::text[]) AS t (subject_id, password_hash)
    WHERE credentials.subject_id = t.subject_id
)
UPDATE log_head SET position = $1::bigint + cardinality($3::uuid[]), recorded_at = $2::timestamptz
"""

# The head: the position of the last event and when it was recorded.
READ_HEAD = "SELECT position, recorded_at, epoch FROM log_head"

# Events after a position, in order. $1 position, $2 how many at most
READ_EVENTS = """
SELECT position, recorded_at, entry, leaf_hash
FROM events WHERE position > $1 ORDER BY position LIMIT $2
"""

# --- sessions ---

# The active sessions behind these token digests. $1 digests
FIND_SESSIONS = """
SELECT token_digest, session_id, subject_id, started_at, expires_at, roles
FROM active_sessions WHERE token_digest = ANY($1::bytea[])
"""

# One session by its digest together with the head's position, in one snapshot. $1 digests
FIND_SESSIONS_AT_HEAD = """
SELECT h.position, s.token_digest, s.session_id, s.subject_id, s.started_at, s.expires_at, s.roles
FROM log_head h LEFT JOIN active_sessions s ON s.token_digest = ANY($1::bytea[])
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

# One active session by its public id. $1 session
FIND_SESSION = """
SELECT token_digest, session_id, subject_id, started_at, expires_at, roles
FROM active_sessions WHERE session_id = $1
"""

# Users with sessions whose time is over. $1 now, $2 how many at most
EXPIRED_SUBJECTS = """
SELECT DISTINCT subject_id FROM (
    SELECT subject_id FROM active_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2
) AS over
"""

# --- users and credentials ---

# What a login is verified against. $1 login
FIND_CREDENTIAL = """
SELECT u.subject_id, c.login, c.password_hash, u.disabled, u.credential_version, u.roles
FROM credentials c JOIN users u USING (subject_id) WHERE c.login = $1
"""

# The same, by user. $1 user
FIND_CREDENTIAL_OF = """
SELECT u.subject_id, c.login, c.password_hash, u.disabled, u.credential_version, u.roles
FROM credentials c JOIN users u USING (subject_id) WHERE u.subject_id = $1
"""

# Put a password's hash under new parameters, unless it changed meanwhile. $1 user, $2 old, $3 new
REPLACE_HASH = """
UPDATE credentials SET password_hash = $3 WHERE subject_id = $1 AND password_hash = $2
"""

# A page of users by id, with their logins. $1 after this id, $2 how many
LIST_USERS = """
SELECT u.subject_id, c.login, u.registered_at, u.disabled, u.roles
FROM users u LEFT JOIN credentials c USING (subject_id)
WHERE u.subject_id > $1 ORDER BY u.subject_id LIMIT $2
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

# Event ids that do not stand where the log says, on either side.
WRONG_EVENT_IDS = """
SELECT COALESCE(e.event_id, i.event_id) AS event_id, e.position, i.position AS noted
FROM events e FULL JOIN event_ids i ON i.event_id = e.event_id AND i.position = e.position
WHERE e.position IS NULL OR i.position IS NULL
LIMIT 100
"""

# The whole projection, to compare.
ALL_SESSIONS = """
SELECT token_digest, session_id, subject_id, started_at, expires_at, roles FROM active_sessions
"""
ALL_USERS = """
SELECT subject_id, registered_at, disabled, credential_version, roles FROM users
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
          AND (r.registered_at, r.disabled, r.credential_version, r.roles)
            = (u.registered_at, u.disabled, u.credential_version, u.roles))
    """,
    """
    INSERT INTO users SELECT * FROM rebuilt_users r WHERE NOT EXISTS (
        SELECT FROM users u WHERE u.subject_id = r.subject_id)
    """,
)

# Replicas made from a wrong projection must start anew.
BUMP_EPOCH = "UPDATE log_head SET epoch = epoch + 1"
