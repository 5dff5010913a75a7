"""The statements of the console: users and sessions of everybody, and how things stand.

A test prepares each against the migrated schema. Moments and ids come in as parameters. Each is
answered by a key, whatever there is how much of: nothing is counted but what has just happened, or
up to a bound. They run where plans are made for indexes (``audit.store.queries``).
"""

# --- sessions

_SESSION = """token_digest, session_id, subject_id, started_at, expires_at, roles,
       absolute_at, idle_s, seen_at, authenticated_at, amr, is_token"""
_OWN = ", ".join(f"s.{name.strip()}" for name in _SESSION.split(","))

# A page of active sessions, without tokens, those that started last first.
# $1 started before, $2 or then and with a smaller id, $3 how many, $4 now
NEWEST_SESSIONS = f"""
SELECT {_SESSION} FROM active_sessions
WHERE NOT is_token AND (started_at, session_id) < ($1, $2::uuid) AND expires_at > $4
ORDER BY started_at DESC, session_id DESC LIMIT $3
"""  # noqa: S608

# The same of one user, of whom there are not many. $5 user
NEWEST_SESSIONS_OF = f"""
SELECT {_SESSION}
FROM (SELECT * FROM active_sessions WHERE subject_id = $5 OFFSET 0) AS own
WHERE NOT is_token AND (started_at, session_id) < ($1, $2::uuid) AND expires_at > $4
ORDER BY started_at DESC, session_id DESC LIMIT $3
"""  # noqa: S608

# When the session started that is active for longest; none started before.
OLDEST_START = """
SELECT started_at FROM active_sessions WHERE NOT is_token ORDER BY started_at, session_id LIMIT 1
"""

# What came from an address, the last first, each with the session that it started, if that is
# active: else with nothing. $1 address index, $2 before this position, $3 how many, $4 now,
# $5 recorded at or after
SESSIONS_FROM = f"""
WITH bounds AS MATERIALIZED (
    SELECT first_position_from($5::timestamptz) AS low
), found AS MATERIALIZED (
    SELECT position FROM event_addresses
    WHERE address_index = $1 AND position < $2 AND position >= (SELECT low FROM bounds)
    ORDER BY position DESC LIMIT $3
)
SELECT f.position, {_OWN}
FROM found f
LEFT JOIN LATERAL (
    SELECT session_id FROM events
    WHERE position BETWEEN f.position AND f.position AND type = 'session_started'
    ORDER BY position LIMIT 1) AS e ON true
LEFT JOIN LATERAL (
    SELECT * FROM active_sessions
    WHERE session_id = e.session_id AND NOT is_token AND expires_at > $4 LIMIT 1) AS s ON true
ORDER BY f.position DESC
"""  # noqa: S608

# --- users

# A page of the users who are not erased, those that came last first.
# $1 registered before, $2 or then and with a smaller id, $3 how many
NEWEST_USERS = """
SELECT u.subject_id, c.login, u.registered_at, u.disabled, u.roles, u.erased, u.factors
FROM (SELECT * FROM users
      WHERE NOT erased AND (registered_at, subject_id) < ($1, $2::uuid)
      ORDER BY registered_at DESC, subject_id DESC LIMIT $3) AS u
LEFT JOIN LATERAL (
    SELECT login FROM credentials WHERE subject_id = u.subject_id LIMIT 1) AS c ON true
ORDER BY u.registered_at DESC, u.subject_id DESC
"""

# One user by id, erased or not, with failures in a row, and since when an address of mail is known.
# $1 user
FIND_USER = """
SELECT u.subject_id, c.login, u.registered_at, u.disabled, u.roles, u.erased, u.factors,
       COALESCE(p.failures, 0) AS failures, m.verified_at
FROM users u LEFT JOIN credentials c USING (subject_id)
     LEFT JOIN password_streaks p USING (subject_id) LEFT JOIN mail_addresses m USING (subject_id)
WHERE u.subject_id = $1
"""

# Who has this login. $1 login
FIND_LOGIN = "SELECT subject_id FROM credentials WHERE login = $1"

# --- how things stand

# The head, when the first minute begins that is told, and the first position from then on.
# $1 how long before this minute
HEAD_NOW = """
SELECT h.position, h.recorded_at, t.now, w.window, first_position_from(w.window) AS first
FROM log_head h CROSS JOIN (SELECT clock_timestamp() AS now OFFSET 0) AS t
CROSS JOIN LATERAL (SELECT date_trunc('minute', t.now, 'UTC') - $1::interval AS window) AS w
"""

# What was recorded between two positions, by minute and type. $1 after, $2 up to, $3 types
MINUTES = """
SELECT date_trunc('minute', recorded_at, 'UTC') AS minute, type, count(*) AS events
FROM events WHERE position > $1 AND position <= $2 AND type = ANY($3::text[])
GROUP BY 1, 2
"""

# How many administrators may log in: two are enough.
FEW_ADMINISTRATORS = """
SELECT count(*) FROM (
    SELECT FROM users WHERE 'admin' = ANY (roles) AND NOT disabled LIMIT 2) AS few
"""
