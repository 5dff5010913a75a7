"""The statements of what applications keep in sessions.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

# What is kept in a session, with the key of its user; no row when the session is over. $1 session
READ_DATA = """
SELECT k.wrapped_key, k.master_key_id, COALESCE(d.revision, 0) AS revision, d.sealed
FROM active_sessions s
JOIN subject_keys k ON k.subject_id = s.subject_id
LEFT JOIN session_data d ON d.session_id = s.session_id
WHERE s.session_id = $1
"""

# Put the next revision in place of the one that was read (0: none), if nobody was quicker and the
# session is active. $1 session, $2 revision that was read, $3 sealed
WRITE_DATA = """
INSERT INTO session_data AS d (session_id, revision, sealed)
SELECT s.session_id, $2::bigint + 1, $3::bytea FROM active_sessions s WHERE s.session_id = $1
ON CONFLICT (session_id) DO UPDATE SET revision = EXCLUDED.revision, sealed = EXCLUDED.sealed
WHERE d.revision = $2
RETURNING revision
"""
