"""The statements of brute-force limits and known devices: as in ``sql``.

A test prepares each against the migrated schema.
"""

# Which of these devices the account with this login knows. $1 login, $2 digests, $3 not before
FIND_DEVICE = """
SELECT d.device_digest FROM credentials c JOIN known_devices d USING (subject_id)
WHERE c.login = $1 AND d.device_digest = ANY($2::bytea[]) AND d.seen_at > $3 AND NOT d.is_place
LIMIT 1
"""

# What the account knows: anything, a device by its token, this place. $1 user, $2 not before,
# $3 place
KNOWN_DEVICES = """
SELECT count(*) > 0, count(*) FILTER (WHERE NOT is_place) > 0,
       count(*) FILTER (WHERE is_place AND device_digest = $3) > 0
FROM known_devices WHERE subject_id = $1 AND seen_at > $2
"""

# Forget some tries that no window reaches any more. $1 before, $2 how many
SWEEP_TRIES = """
DELETE FROM login_tries WHERE try_id IN (SELECT try_id FROM login_tries WHERE at < $1 LIMIT $2)
"""

# The same for places that were throttled, and for devices. $1 before, $2 how many
SWEEP_PLACES = """
DELETE FROM throttled_places
WHERE place IN (SELECT place FROM throttled_places WHERE noted_at < $1 LIMIT $2)
"""
SWEEP_DEVICES = """
DELETE FROM known_devices WHERE (subject_id, device_digest) IN (
    SELECT subject_id, device_digest FROM known_devices WHERE seen_at < $1 LIMIT $2)
"""

# --- what a batch reads and writes

# Expressions of the row that is read under the head's lock: the newest tries at each of {0}
# accounts since {1}, {2} at most; the same from places; the failures in a row of {0} users; when
# the log was told of {0} places.
TRIES_AT = """
ARRAY(SELECT ROW(t.try_id, t.at, t.account, t.place, t.device, t.subject_id, t.settled)
      FROM unnest({0}::bytea[]) AS wanted (account),
      LATERAL (SELECT * FROM login_tries WHERE account = wanted.account AND at > {1}::timestamptz
               ORDER BY at DESC LIMIT {2}::integer) AS t)
"""
TRIES_FROM = """
ARRAY(SELECT ROW(t.try_id, t.at, t.account, t.place, t.device, t.subject_id, t.settled)
      FROM unnest({0}::bytea[]) AS wanted (place),
      LATERAL (SELECT * FROM login_tries WHERE place = wanted.place AND at > {1}::timestamptz
               ORDER BY at DESC LIMIT {2}::integer) AS t)
"""
STREAKS = """
ARRAY(SELECT ROW(subject_id, failures) FROM password_streaks
      WHERE subject_id = ANY({0}::uuid[]))
"""
NOTED = """
ARRAY(SELECT ROW(place, noted_at) FROM throttled_places WHERE place = ANY({0}::bytea[]))
"""

# Admitted tries; those that have failed; those that a right password takes back; and those at the
# account of a user who is erased, or whose password is another one or unlocked. A try that is
# forgotten in the batch that admits it is not written before.
INSERT_TRIES = """
INSERT INTO login_tries (try_id, at, account, place, device, subject_id, settled)
SELECT try_id, at, account, place, device, subject_id, false
FROM unnest({0}::uuid[], {1}::timestamptz[], {2}::bytea[], {3}::bytea[], {4}::bytea[],
            {5}::uuid[]) AS t (try_id, at, account, place, device, subject_id)
ON CONFLICT DO NOTHING
"""
SETTLE_TRIES = "UPDATE login_tries SET settled = true WHERE try_id = ANY({0}::uuid[])"
FORGET_TRIES = """
DELETE FROM login_tries t USING unnest({0}::bytea[], {1}::bytea[], {2}::bytea[])
            AS f (account, place, device)
WHERE t.account = f.account AND (t.place = f.place OR t.device = f.device)
"""
CLEAR_TRIES = "DELETE FROM login_tries WHERE subject_id = ANY({0}::uuid[])"

# Failures in a row, and of whom there are none any more.
PUT_STREAKS = """
INSERT INTO password_streaks (subject_id, failures)
SELECT subject_id, failures FROM unnest({0}::uuid[], {1}::integer[]) AS t (subject_id, failures)
ON CONFLICT (subject_id) DO UPDATE SET failures = EXCLUDED.failures
"""
END_STREAKS = "DELETE FROM password_streaks WHERE subject_id = ANY({0}::uuid[])"

# Of which places the log has just been told.
NOTE_PLACES = """
INSERT INTO throttled_places (place, noted_at)
SELECT place, noted_at FROM unnest({0}::bytea[], {1}::timestamptz[]) AS t (place, noted_at)
ON CONFLICT (place) DO UPDATE SET noted_at = EXCLUDED.noted_at
"""

# Devices on which the password was right, and places from which it was; those that give way to
# them, beyond so many of either of a user; and all of a user. {2} how many may stay beside a new
# one
FORGET_DEVICES = "DELETE FROM known_devices WHERE subject_id = ANY({0}::uuid[])"
SEE_DEVICES = """
INSERT INTO known_devices (subject_id, device_digest, seen_at, is_place)
SELECT subject_id, device_digest, seen_at, is_place
FROM unnest({0}::uuid[], {1}::bytea[], {2}::timestamptz[], {3}::boolean[])
     AS t (subject_id, device_digest, seen_at, is_place)
ON CONFLICT (subject_id, device_digest) DO UPDATE SET seen_at = EXCLUDED.seen_at
"""
CROWD_OUT_DEVICES = """
DELETE FROM known_devices d USING unnest({0}::uuid[]) AS s (subject_id)
WHERE d.subject_id = s.subject_id AND d.device_digest <> ALL ({1}::bytea[])
  AND (SELECT count(*) FROM known_devices n
       WHERE n.subject_id = d.subject_id AND n.device_digest <> ALL ({1}::bytea[])
         AND n.is_place = d.is_place
         AND (n.seen_at, n.device_digest) > (d.seen_at, d.device_digest)) >= {2}::integer
"""
