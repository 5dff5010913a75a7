"""The statements of mails that must go out.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

# New mails; and those to users who are erased.
INSERT_MAILS = """
INSERT INTO mail_outbox (mail_id, subject_id, sealed, written_at, due_at, tries, link_digest)
SELECT mail_id, subject_id, sealed, written_at, written_at, 0, link_digest
FROM unnest({0}::uuid[], {1}::uuid[], {2}::bytea[], {3}::timestamptz[], {4}::bytea[])
     AS t (mail_id, subject_id, sealed, written_at, link_digest)
"""
ERASE_MAILS = "DELETE FROM mail_outbox WHERE subject_id = ANY({0}::uuid[])"

# Mails of erased users, told by table, user and what is wrong.
LEFT_MAILS = """
SELECT 'mail_outbox', m.subject_id, 'is left of an erased user'
FROM mail_outbox m JOIN users USING (subject_id) WHERE erased LIMIT 100
"""

# A turn at sending, for as long as the connection lasts. $1 the lock
LOCK_SENDING = "SELECT pg_try_advisory_lock($1)"

# Whether the connection that has the lock is there.
STILL_THERE = "SELECT true"

# Mails whose time has come, the oldest first. $1 now, $2 how many
DUE_MAILS = """
SELECT mail_id, subject_id, sealed, written_at, tries, link_digest
FROM mail_outbox WHERE due_at <= $1 AND dead_at IS NULL ORDER BY due_at, mail_id LIMIT $2
"""

# A mail that is sent, or is not to be sent any more. $1 mail
FORGET_MAIL = "DELETE FROM mail_outbox WHERE mail_id = $1"

# A mail that failed, to be tried again. $1 mail, $2 when
POSTPONE_MAIL = "UPDATE mail_outbox SET tries = tries + 1, due_at = $2 WHERE mail_id = $1"

# A mail that is given up: that there was one stays for a while, what it said does not. $1 mail,
# $2 now
BURY_MAIL = "UPDATE mail_outbox SET dead_at = $2, sealed = ''::bytea WHERE mail_id = $1"

# Forget those that were given up long ago. $1 before
SWEEP_DEAD = "DELETE FROM mail_outbox WHERE dead_at < $1"

# How many wait, how many of them have failed before, and how many were given up.
COUNT_MAILS = """
SELECT count(*) FILTER (WHERE dead_at IS NULL),
       count(*) FILTER (WHERE dead_at IS NULL AND tries > 0),
       count(*) FILTER (WHERE dead_at IS NOT NULL)
FROM mail_outbox
"""
