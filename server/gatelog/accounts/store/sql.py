"""The statements of users and their credentials, to read.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

# What a login is verified against. $1 login
FIND_CREDENTIAL = """
SELECT u.subject_id, c.login, COALESCE(c.guarded_hash, c.password_hash) AS password_hash,
       u.disabled, u.credential_version, u.roles, COALESCE(s.failures, 0) AS failures,
       GREATEST(u.factors, (c.guarded_hash IS NOT NULL)::integer) AS factors, k.wrapped_key,
       k.master_key_id
FROM credentials c JOIN users u USING (subject_id) LEFT JOIN subject_keys k USING (subject_id)
     LEFT JOIN password_streaks s USING (subject_id)
WHERE c.login = $1
"""

# The same, by user. $1 user
FIND_CREDENTIAL_OF = """
SELECT u.subject_id, c.login, COALESCE(c.guarded_hash, c.password_hash) AS password_hash,
       u.disabled, u.credential_version, u.roles, COALESCE(s.failures, 0) AS failures,
       GREATEST(u.factors, (c.guarded_hash IS NOT NULL)::integer) AS factors, k.wrapped_key,
       k.master_key_id
FROM credentials c JOIN users u USING (subject_id) LEFT JOIN subject_keys k USING (subject_id)
     LEFT JOIN password_streaks s USING (subject_id)
WHERE u.subject_id = $1
"""

# The logins of these users, as far as there are any. $1 users
LOGINS_OF = "SELECT subject_id, login FROM credentials WHERE subject_id = ANY($1::uuid[])"

# Whether there is such a user, erased or not. $1 user
FIND_USER = """
SELECT subject_id, registered_at, disabled, credential_version, roles, erased, factors
FROM users WHERE subject_id = $1
"""

# Put a password's hash under new parameters, unless it changed meanwhile. $1 user, $2 old, $3 new
REPLACE_HASH = """
UPDATE credentials
SET password_hash = CASE WHEN guarded_hash IS NULL THEN $3 ELSE password_hash END,
    guarded_hash = CASE WHEN guarded_hash IS NOT NULL THEN $3 END,
    imported_cost = NULL
WHERE subject_id = $1 AND COALESCE(guarded_hash, password_hash) = $2
"""

# What imported passwords cost that nobody has logged in with since, and how many each; and how many
# credentials there are.
COUNT_COSTS = """
SELECT imported_cost, count(*) FROM credentials WHERE imported_cost IS NOT NULL
GROUP BY imported_cost ORDER BY imported_cost
"""
COUNT_CREDENTIALS = "SELECT count(*) FROM credentials"

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
WHERE session_id = ANY($1::uuid[]) AND type IN ('session_started', 'token_created')
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

# --- second factors

# The factors of a user. $1 user; the one with this credential id, and whose it is. $1 digest
READ_FACTORS = """
SELECT factor_id, subject_id, kind, enrolled_at, used_at, counter, sealed
FROM factors WHERE subject_id = $1 ORDER BY enrolled_at, factor_id
"""
FIND_PASSKEY = """
SELECT factor_id, subject_id, kind, enrolled_at, used_at, counter, sealed
FROM factors WHERE credential_digest = $1
"""

# How many recovery codes a user has. $1 user
COUNT_CODES = "SELECT count(*) FROM recovery_codes WHERE subject_id = $1"

# Whom a challenge waits for, and what for. $1 digest
READ_CHALLENGE = """
SELECT challenge_digest, subject_id, purpose, session_id, credential_version, expires_at, wrong,
       answered
FROM challenges WHERE challenge_digest = $1
"""

# Forget challenges that are over. $1 before, $2 how many
SWEEP_CHALLENGES = """
DELETE FROM challenges WHERE challenge_digest IN (
    SELECT challenge_digest FROM challenges WHERE expires_at < $1 LIMIT $2)
"""

# Expressions of the row that is read under the head's lock: the factors, recovery codes and
# challenges of {0} users, and which of {0} credential ids are enrolled.
FACTORS = """
ARRAY(SELECT ROW(factor_id, subject_id, kind, counter)
      FROM factors WHERE subject_id = ANY({0}::uuid[]))
"""
CODES = """
ARRAY(SELECT ROW(subject_id, code_digest)
      FROM recovery_codes WHERE subject_id = ANY({0}::uuid[]))
"""
CHALLENGES = """
ARRAY(SELECT ROW(challenge_digest, subject_id, purpose, session_id, credential_version, expires_at,
                 wrong, answered)
      FROM challenges WHERE challenge_digest = ANY({0}::bytea[]))
"""
ENROLLED = """
ARRAY(SELECT credential_digest FROM factors WHERE credential_digest = ANY({0}::bytea[]))
"""

# New factors and those that are removed; how far they have been used.
INSERT_FACTORS = """
INSERT INTO factors (factor_id, subject_id, kind, enrolled_at, counter, credential_digest, sealed)
SELECT factor_id, subject_id, kind, enrolled_at, counter, credential_digest, sealed
FROM unnest({0}::uuid[], {1}::uuid[], {2}::text[], {3}::timestamptz[], {4}::bigint[], {5}::bytea[],
            {6}::bytea[])
     AS t (factor_id, subject_id, kind, enrolled_at, counter, credential_digest, sealed)
"""
REMOVE_FACTORS = "DELETE FROM factors WHERE factor_id = ANY({0}::uuid[])"
USE_FACTORS = """
UPDATE factors SET counter = t.counter, used_at = t.used_at
FROM unnest({0}::uuid[], {1}::bigint[], {2}::timestamptz[]) AS t (factor_id, counter, used_at)
WHERE factors.factor_id = t.factor_id
"""

# Recovery codes that are replaced by others, these, and those that are used up.
FORGET_CODES = "DELETE FROM recovery_codes WHERE subject_id = ANY({0}::uuid[])"
INSERT_CODES = """
INSERT INTO recovery_codes (subject_id, code_digest)
SELECT subject_id, code_digest FROM unnest({0}::uuid[], {1}::bytea[]) AS t (subject_id, code_digest)
"""
USE_CODES = """
DELETE FROM recovery_codes c USING unnest({0}::uuid[], {1}::bytea[]) AS t (subject_id, code_digest)
WHERE c.subject_id = t.subject_id AND c.code_digest = t.code_digest
"""

# New challenges; wrong answers to others; and those that are answered, or that give way to new ones
# of their users, beyond so many. {1} how many may stay beside a new one
INSERT_CHALLENGES = """
INSERT INTO challenges (challenge_digest, subject_id, purpose, session_id, credential_version,
                        expires_at, wrong, answered)
SELECT challenge_digest, subject_id, purpose, session_id, credential_version, expires_at, wrong,
       answered
FROM unnest({0}::bytea[], {1}::uuid[], {2}::text[], {3}::uuid[], {4}::integer[], {5}::timestamptz[],
            {6}::integer[], {7}::boolean[])
     AS t (challenge_digest, subject_id, purpose, session_id, credential_version, expires_at, wrong,
           answered)
ON CONFLICT DO NOTHING
"""
ANSWER_WRONGLY = """
UPDATE challenges SET wrong = t.wrong
FROM unnest({0}::bytea[], {1}::integer[]) AS t (challenge_digest, wrong)
WHERE challenges.challenge_digest = t.challenge_digest
"""
USE_CHALLENGES = "DELETE FROM challenges WHERE challenge_digest = ANY({0}::bytea[])"
CROWD_OUT_CHALLENGES = """
DELETE FROM challenges c USING unnest({0}::uuid[]) AS s (subject_id)
WHERE c.subject_id = s.subject_id AND NOT c.answered
  AND (SELECT count(*) FROM challenges n
       WHERE n.subject_id = c.subject_id AND NOT n.answered
         AND (n.expires_at, n.challenge_digest) > (c.expires_at, c.challenge_digest))
      >= {1}::integer
"""

# Where the factors that the log tells of are not those that are there, or where the password's hash
# is not guarded like that, told by table, user and what is wrong.
WRONG_FACTORS = """
SELECT 'factors', u.subject_id, 'are ' || f.found || ', the log says ' || u.factors
FROM users u, LATERAL (SELECT count(*) AS found FROM factors WHERE subject_id = u.subject_id) AS f
WHERE NOT u.erased AND u.factors <> f.found
UNION ALL
SELECT 'credentials', subject_id, 'is guarded otherwise than its factors ask for'
FROM credentials c JOIN users u USING (subject_id)
WHERE NOT u.erased AND (c.guarded_hash IS NOT NULL) <> (u.factors > 0)
UNION ALL
SELECT 'recovery_codes', r.subject_id, 'is of a user without factors'
FROM recovery_codes r JOIN users u USING (subject_id) WHERE u.factors = 0
LIMIT 100
"""

# --- links and addresses of mail

# Expressions of the row that is read under the head's lock: links by {0} digests.
LINKS = """
ARRAY(SELECT ROW(link_digest, subject_id, purpose, credential_version, expires_at, sealed)
      FROM links WHERE link_digest = ANY({0}::bytea[]))
"""

# New links; used ones; all of users whose password is another one, or who are erased; and those
# that give way to new ones, beyond {1} of a user and a purpose.
INSERT_LINKS = """
INSERT INTO links (link_digest, subject_id, purpose, credential_version, expires_at, sealed)
SELECT link_digest, subject_id, purpose, credential_version, expires_at, sealed
FROM unnest({0}::bytea[], {1}::uuid[], {2}::text[], {3}::integer[], {4}::timestamptz[],
            {5}::bytea[])
     AS t (link_digest, subject_id, purpose, credential_version, expires_at, sealed)
"""
USE_LINKS = "DELETE FROM links WHERE link_digest = ANY({0}::bytea[])"
END_LINKS = "DELETE FROM links WHERE subject_id = ANY({0}::uuid[])"
CROWD_OUT_LINKS = """
DELETE FROM links l WHERE l.subject_id = ANY({0}::uuid[]) AND l.link_digest IN (
    SELECT link_digest
    FROM (SELECT link_digest, row_number() OVER (PARTITION BY subject_id, purpose
                                                 ORDER BY expires_at DESC, link_digest) AS n
          FROM links WHERE subject_id = ANY({0}::uuid[])) AS t
    WHERE n > {1}::integer)
"""

# Requests for a link, and those that have got one.
INSERT_REQUESTS = """
INSERT INTO link_requests (event_id, asked_at)
SELECT event_id, asked_at FROM unnest({0}::uuid[], {1}::timestamptz[]) AS t (event_id, asked_at)
"""
ANSWER_REQUESTS = "DELETE FROM link_requests WHERE event_id = ANY({0}::uuid[])"

# Addresses of mail that are verified, and those of users who have none any more.
PUT_ADDRESSES = """
INSERT INTO mail_addresses (subject_id, sealed, verified_at)
SELECT subject_id, sealed, verified_at
FROM unnest({0}::uuid[], {1}::bytea[], {2}::timestamptz[]) AS t (subject_id, sealed, verified_at)
ON CONFLICT (subject_id) DO UPDATE
SET sealed = EXCLUDED.sealed, verified_at = EXCLUDED.verified_at
"""
FORGET_ADDRESSES = "DELETE FROM mail_addresses WHERE subject_id = ANY({0}::uuid[])"

# Links and addresses of erased users, told by table, user and what is wrong.
LEFT_LINKS = """
SELECT t.name, subject_id, 'is left of an erased user'
FROM (SELECT 'links' AS name, subject_id FROM links
      UNION SELECT 'mail_addresses', subject_id FROM mail_addresses) AS t
JOIN users USING (subject_id) WHERE erased LIMIT 100
"""

# A link, to see whether it is worth a hash. $1 digest
FIND_LINK = """
SELECT link_digest, subject_id, purpose, credential_version, expires_at, sealed
FROM links WHERE link_digest = $1
"""

# A link goes out only now: its time begins. $1 digest, $2 now, $3 purposes, $4 their lifetimes
EXTEND_LINK = """
UPDATE links SET expires_at = GREATEST(expires_at, $2::timestamptz + t.lifetime)
FROM unnest($3::text[], $4::interval[]) AS t (purpose, lifetime)
WHERE link_digest = $1 AND links.purpose = t.purpose
RETURNING link_digest
"""

# Where a user's mail goes. $1 user
FIND_ADDRESS = "SELECT sealed, verified_at FROM mail_addresses WHERE subject_id = $1"

# The events of requests for a link that wait, the oldest first; NULL where it was purged. $1 how
# many
READ_REQUESTS = """
SELECT r.event_id, r.asked_at, e.entry
FROM link_requests r LEFT JOIN event_ids i USING (event_id) LEFT JOIN events e USING (position)
ORDER BY r.asked_at, r.event_id LIMIT $1
"""
DROP_REQUEST = "DELETE FROM link_requests WHERE event_id = $1"

# Forget links whose time was over by then. $1 before
SWEEP_LINKS = "DELETE FROM links WHERE expires_at < $1"

# --- the projection: what a batch reads, and where a purged log begins

# Expressions of the row that is read under the head's lock: {0} users; whether there is any;
# {0} how many of the enabled administrators; the owners of {0} logins
USERS = """
ARRAY(SELECT ROW(subject_id, registered_at, disabled, credential_version, roles, erased, factors)
      FROM users WHERE subject_id = ANY({0}::uuid[]))
"""
ANYBODY = "EXISTS (SELECT FROM users)"
ADMINISTRATORS = """
ARRAY(SELECT subject_id FROM users WHERE 'admin' = ANY (roles) AND NOT disabled LIMIT {0})
"""
OWNERS = """
ARRAY(SELECT ROW(login, subject_id) FROM credentials WHERE login = ANY({0}::text[]))
"""

# New credentials; changed ones, with another password's hash, or guarded from programs that know no
# factors, or no more; and those of users who are erased.
INSERT_CREDENTIALS = """
INSERT INTO credentials (subject_id, login, password_hash, imported_cost, changed_at)
SELECT subject_id, login, password_hash, imported_cost, {recorded_at}
FROM unnest({0}::uuid[], {1}::text[], {2}::text[], {3}::text[])
     AS t (subject_id, login, password_hash, imported_cost)
"""
CHANGE_CREDENTIALS = """
UPDATE credentials c
SET guarded_hash = CASE WHEN COALESCE(t.guards, c.guarded_hash IS NOT NULL)
                        THEN COALESCE(t.password_hash, c.guarded_hash, c.password_hash) END,
    password_hash = CASE WHEN COALESCE(t.guards, c.guarded_hash IS NOT NULL)
                         THEN COALESCE(t.cover, c.password_hash)
                         ELSE COALESCE(t.password_hash, c.guarded_hash, c.password_hash) END,
    imported_cost = CASE WHEN t.password_hash IS NULL THEN c.imported_cost END,
    changed_at = CASE WHEN t.password_hash IS NULL THEN c.changed_at ELSE {recorded_at} END
FROM unnest({0}::uuid[], {1}::text[], {2}::boolean[], {3}::text[])
     AS t (subject_id, password_hash, guards, cover)
WHERE c.subject_id = t.subject_id
"""
ERASE_CREDENTIALS = "DELETE FROM credentials WHERE subject_id = ANY({0}::uuid[])"

# The users at a cut, each with 0 for where it came to be. $1 the cut
USERS_AT_CUT = """
SELECT DISTINCT ON (subject_id)
       0::bigint, subject_id, registered_at, disabled, credential_version, roles, erased, factors
FROM user_marks WHERE position <= $1 ORDER BY subject_id, position DESC
"""

# Credentials of erased users and what belongs to them, told by table, user and what is wrong.
LEFT_CREDENTIALS = """
SELECT t.name, subject_id, 'is left of an erased user'
FROM (SELECT 'credentials' AS name, subject_id FROM credentials
      UNION SELECT 'login_tries', subject_id FROM login_tries
      UNION SELECT 'known_devices', subject_id FROM known_devices
      UNION SELECT 'password_streaks', subject_id FROM password_streaks) AS t
JOIN users USING (subject_id) WHERE erased LIMIT 100
"""

# The same for keys and blind indexes; and users without a key.
WRONG_KEYS = """
SELECT t.name, t.subject_id, 'is left of an erased user'
FROM (SELECT 'subject_keys' AS name, subject_id FROM subject_keys
      UNION ALL SELECT DISTINCT 'event_addresses', subject_id FROM event_addresses
                WHERE subject_id IN (SELECT subject_id FROM users WHERE erased)
      UNION ALL SELECT DISTINCT 'event_origins', subject_id FROM event_origins
                WHERE subject_id IN (SELECT subject_id FROM users WHERE erased)) AS t
JOIN users u USING (subject_id) WHERE u.erased
UNION ALL
SELECT 'subject_keys', u.subject_id, 'is missing'
FROM users u WHERE NOT u.erased AND NOT EXISTS (
    SELECT FROM subject_keys k WHERE k.subject_id = u.subject_id)
LIMIT 100
"""
