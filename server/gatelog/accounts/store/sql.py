"""The statements of users and their credentials, to read.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

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

# --- what people see of their sessions

# The events that have started these sessions. $1 sessions
READ_STARTS = """
SELECT session_id, entry FROM events
WHERE session_id = ANY($1::uuid[]) AND type = 'session_started'
"""

# The names of sessions. $1 sessions; $1 session, $2 sealed; $1 session
READ_NAMES = "SELECT session_id, sealed FROM session_names WHERE session_id = ANY($1::uuid[])"
WRITE_NAME = """
INSERT INTO session_names (session_id, sealed)
SELECT s.session_id, $2::bytea FROM active_sessions s WHERE s.session_id = $1
ON CONFLICT (session_id) DO UPDATE SET sealed = EXCLUDED.sealed
RETURNING session_id
"""
FORGET_NAME = "DELETE FROM session_names WHERE session_id = $1"

# --- the projection: what a batch reads, and where a purged log begins

# Expressions of the row that is read under the head's lock: {0} users; whether there is any;
# {0} how many of the enabled administrators; the owners of {0} logins
USERS = """
ARRAY(SELECT ROW(subject_id, registered_at, disabled, credential_version, roles, erased)
      FROM users WHERE subject_id = ANY({0}::uuid[]))
"""
ANYBODY = "EXISTS (SELECT FROM users)"
ADMINISTRATORS = """
ARRAY(SELECT subject_id FROM users WHERE 'admin' = ANY (roles) AND NOT disabled LIMIT {0})
"""
OWNERS = """
ARRAY(SELECT ROW(login, subject_id) FROM credentials WHERE login = ANY({0}::text[]))
"""

# New credentials, replaced password hashes, and those of users who are erased.
INSERT_CREDENTIALS = """
INSERT INTO credentials (subject_id, login, password_hash, changed_at)
SELECT subject_id, login, password_hash, {recorded_at}
FROM unnest({0}::uuid[], {1}::text[], {2}::text[]) AS t (subject_id, login, password_hash)
"""
REPLACE_HASHES = """
UPDATE credentials SET password_hash = t.password_hash, changed_at = {recorded_at}
FROM unnest({0}::uuid[], {1}::text[]) AS t (subject_id, password_hash)
WHERE credentials.subject_id = t.subject_id
"""
ERASE_CREDENTIALS = "DELETE FROM credentials WHERE subject_id = ANY({0}::uuid[])"

# The users at a cut, each with 0 for where it came to be. $1 the cut
USERS_AT_CUT = """
SELECT DISTINCT ON (subject_id)
       0::bigint, subject_id, registered_at, disabled, credential_version, roles, erased
FROM user_marks WHERE position <= $1 ORDER BY subject_id, position DESC
"""

# Credentials of erased users, told by table, user and what is wrong.
LEFT_CREDENTIALS = """
SELECT 'credentials', subject_id, 'is left of an erased user'
FROM credentials JOIN users USING (subject_id) WHERE erased LIMIT 100
"""

# The same for keys and addresses; and users without a key.
WRONG_KEYS = """
SELECT t.name, t.subject_id, 'is left of an erased user'
FROM (SELECT 'subject_keys' AS name, subject_id FROM subject_keys
      UNION ALL SELECT DISTINCT 'event_addresses', subject_id FROM event_addresses
                WHERE subject_id IN (SELECT subject_id FROM users WHERE erased)) AS t
JOIN users u USING (subject_id) WHERE u.erased
UNION ALL
SELECT 'subject_keys', u.subject_id, 'is missing'
FROM users u WHERE NOT u.erased AND NOT EXISTS (
    SELECT FROM subject_keys k WHERE k.subject_id = u.subject_id)
LIMIT 100
"""
