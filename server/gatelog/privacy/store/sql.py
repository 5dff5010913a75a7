"""The statements of keys and of the blind index over addresses.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
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

# The same of what they are found by besides. $1 up to this position, $2 how many
CLEAR_NOBODYS_ORIGINS = """
DELETE FROM event_origins WHERE subject_id IS NULL AND position <= (
    SELECT max(position) FROM (
        SELECT position FROM event_origins WHERE subject_id IS NULL AND position <= $1
        ORDER BY position LIMIT $2) AS first)
"""

# And of a user. $1 user, $2 how many
CLEAR_ORIGINS_OF = """
DELETE FROM event_origins WHERE subject_id = $1 AND position <= (
    SELECT max(position) FROM (
        SELECT position FROM event_origins WHERE subject_id = $1
        ORDER BY position LIMIT $2) AS first)
"""

# --- what older versions have not traced ---

# Up to where events can be found by their origins, and where the log begins and ends.
TRACED = """
SELECT o.traced_to, h.position AS head, (SELECT COALESCE(max(up_to), 0) FROM purges) AS cut
FROM log_head h, origins_head o
"""

# One process at a time, until its connection closes. $1 an arbitrary constant
LOCK_TRACING = "SELECT pg_try_advisory_lock($1)"

# Under the lock of the head, so that nobody is being erased: the origins of events that have none,
# unless the key that opens them has gone. $1-$6 columns, $7 the day whose key opens it, of nobody's
TRACE = """
INSERT INTO event_origins (position, subject_id, near, middle, wide, login)
SELECT t.position, t.subject_id, t.near, t.middle, t.wide, t.login
FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::date[]) AS t (position, subject_id, near, middle, wide, login, day)
WHERE CASE WHEN t.subject_id IS NULL
      THEN EXISTS (SELECT FROM day_keys k WHERE k.day = t.day)
           AND NOT EXISTS (SELECT FROM event_origins o
                           WHERE o.subject_id IS NULL AND o.position = t.position)
      ELSE EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = t.subject_id)
           AND NOT EXISTS (SELECT FROM event_origins o
                           WHERE o.subject_id = t.subject_id AND o.position = t.position)
      END
"""

# They can be found now, up to here. $1 from, $2 up to
TRACED_TO = "UPDATE origins_head SET traced_to = $2 WHERE traced_to = $1"

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
    "VACUUM factors",
    "VACUUM recovery_codes",
    "VACUUM challenges",
    "VACUUM subject_keys",
    "VACUUM event_addresses",
    "VACUUM event_origins",
)

# --- what a batch reads and writes

# Expression of the row that is read under the head's lock: the master key that is current.
CURRENT_MASTER_KEY = "(SELECT master_key_id FROM key_ring)"

# Keys of new users, and of those who are erased; where events can be found by address.
INSERT_SUBJECT_KEYS = """
INSERT INTO subject_keys (subject_id, wrapped_key, master_key_id)
SELECT subject_id, wrapped_key, master_key_id
FROM unnest({0}::uuid[], {1}::bytea[], {2}::bytea[]) AS t (subject_id, wrapped_key, master_key_id)
"""
ERASE_SUBJECT_KEYS = "DELETE FROM subject_keys WHERE subject_id = ANY({0}::uuid[])"
INSERT_ADDRESSES = """
INSERT INTO event_addresses (address_index, position, subject_id)
SELECT address_index, position, subject_id
FROM unnest({0}::bytea[], {1}::bigint[], {2}::uuid[]) AS t (address_index, position, subject_id)
"""
INSERT_ORIGINS = """
INSERT INTO event_origins (position, subject_id, near, middle, wide, login)
SELECT position, subject_id, near, middle, wide, login
FROM unnest({0}::bigint[], {1}::uuid[], {2}::bigint[], {3}::bigint[], {4}::bigint[], {5}::bigint[])
     AS t (position, subject_id, near, middle, wide, login)
"""
# Nothing is missing up to the end of this batch, if nothing was up to its beginning; what a version
# appends that knows of no origins stays behind. Arrays of one: where it begins after, and ends.
MOVE_TRACED_TO = """
UPDATE origins_head SET traced_to = ({1}::bigint[])[1] WHERE traced_to = ({0}::bigint[])[1]
"""
ERASE_ORIGINS = "DELETE FROM event_origins WHERE subject_id = ANY({0}::uuid[])"
ERASE_ADDRESSES = "DELETE FROM event_addresses WHERE subject_id = ANY({0}::uuid[])"
