"""The statements of sessions: the table, the replicas made from it, and their leases.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

# --- sessions ---

# Sessions, with the columns of the table in their order (``kind.session_of`` reads them).
SELECT_SESSIONS = """
SELECT token_digest, session_id, subject_id, started_at, expires_at, roles,
       absolute_at, idle_s, seen_at, authenticated_at, amr, is_token
FROM active_sessions
"""

# The active sessions behind these token digests. $1 digests
FIND_SESSIONS = SELECT_SESSIONS + "WHERE token_digest = ANY($1::bytea[])"

# Which of these sessions live by the log's clock. $1 digests, $2 how far that is moved (in tests)
FIND_LIVE_SESSIONS = (
    SELECT_SESSIONS
    + """
WHERE token_digest = ANY($1::bytea[])
      AND expires_at > clock_timestamp() + $2
"""
)

# One session by its digest together with the head's position, in one snapshot, and the key of its
# user. $1 digests
FIND_SESSIONS_AT_HEAD = """
SELECT h.position, s.token_digest, s.session_id, s.subject_id, s.started_at, s.expires_at, s.roles,
       s.absolute_at, s.idle_s, s.seen_at, s.authenticated_at, s.amr, s.is_token,
       k.wrapped_key, k.master_key_id
FROM log_head h
LEFT JOIN active_sessions s ON s.token_digest = ANY($1::bytea[])
LEFT JOIN subject_keys k ON k.subject_id = s.subject_id
"""

# The active sessions of a user, or the tokens, oldest first. $1 user, $2 now, $3 whether tokens
LIST_SESSIONS_OF = (
    SELECT_SESSIONS
    + """
WHERE subject_id = $1 AND expires_at > $2 AND is_token = $3
ORDER BY started_at, session_id LIMIT 1000
"""
)

# A page of active sessions, without tokens, by id. $1 after this id, $2 how many, $3 now
LIST_SESSIONS = (
    SELECT_SESSIONS
    + """
WHERE session_id > $1 AND expires_at > $3 AND NOT is_token
ORDER BY session_id LIMIT $2
"""
)

# The same for one session by its public id. $1 session
FIND_SESSION = """
SELECT h.position, s.token_digest, s.session_id, s.subject_id, s.started_at, s.expires_at, s.roles,
       s.absolute_at, s.idle_s, s.seen_at, s.authenticated_at, s.amr, s.is_token,
       k.wrapped_key, k.master_key_id
FROM log_head h
LEFT JOIN active_sessions s ON s.session_id = $1
LEFT JOIN subject_keys k ON k.subject_id = s.subject_id
"""

# One at a time in the cluster records whose time is over: true for who has the lock now. $1 key
LOCK_SWEEP = "SELECT pg_try_advisory_lock($1)"

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

# --- the projection: what a batch reads, and where a purged log begins

# Expressions of the row that is read under the head's lock. {0} users whose sessions are wanted;
# {0} users whose sessions are wanted when there are more than {1} of them; {0} token digests
SESSIONS_OF = """
ARRAY(SELECT ROW(token_digest, session_id, subject_id, started_at, expires_at, roles,
                 absolute_at, idle_s, seen_at, authenticated_at, amr, is_token)
      FROM active_sessions WHERE subject_id = ANY({0}::uuid[]))
"""
CROWDS_OF = """
ARRAY(SELECT ROW(token_digest, session_id, s.subject_id, started_at, expires_at, roles,
                 absolute_at, idle_s, seen_at, authenticated_at, amr, is_token)
      FROM (SELECT subject_id FROM active_sessions
            WHERE subject_id = ANY({0}::uuid[]) AND NOT is_token
            GROUP BY subject_id HAVING count(*) > {1}) crowded
      JOIN active_sessions s USING (subject_id) WHERE NOT is_token)
"""
SESSIONS_BEHIND = """
ARRAY(SELECT ROW(token_digest, session_id, subject_id, started_at, expires_at, roles,
                 absolute_at, idle_s, seen_at, authenticated_at, amr, is_token)
      FROM active_sessions WHERE token_digest = ANY({0}::bytea[]))
"""

# Sessions that have been used. {0} digests, {1} expires_at, {2} seen_at
SEE_SESSIONS = """
UPDATE active_sessions SET expires_at = t.expires_at, seen_at = t.seen_at
FROM unnest({0}::bytea[], {1}::timestamptz[], {2}::timestamptz[])
     AS t (token_digest, expires_at, seen_at)
WHERE active_sessions.token_digest = t.token_digest
"""

# The sessions at a cut, each with where it had started. $1 the cut
SESSIONS_AT_CUT = """
SELECT r.position, r.token_digest, r.session_id, r.subject_id, r.started_at, r.expires_at, r.roles,
       r.absolute_at, r.idle_s, r.seen_at, r.authenticated_at, r.amr, r.is_token
FROM session_marks m, unnest(m.starts) AS t (start) JOIN retained_sessions r ON r.position = t.start
WHERE m.position = $1
"""

# --- what was announced (log.rules.events.Announcement) ---

# What was announced last, by topic.
READ_ANNOUNCED = "SELECT topic, value FROM announced"

# The same where a purged log begins; what was announced since comes again with its event.
# $1 the cut
ANNOUNCED_AT_CUT = "SELECT 0::bigint, topic, value FROM announced WHERE $1::bigint IS NOT NULL"

# --- replicas and their leases ---

# What positions mean: the cluster, its timeline, and a number that a restored backup moves on.
# The timeline is that of the WAL being written: the one in the control file lags a promotion, and
# on a standby, where nothing may be trusted, this fails.
READ_EPOCH = """
SELECT c.system_identifier || '.' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
       || '.' || h.epoch
FROM pg_control_system() c, log_head h
"""

# Names a time in which no row of a lease is lost. What may lose one changes a part of it: a standby
# is promoted (the timeline), other files are put in place (no server runs meanwhile), a dump is
# loaded or a database copied (another file for the rows, or another database).
READ_INCARNATION = f"""
SELECT ({READ_EPOCH}) || '.' || d.oid || '.' || pg_relation_filenode('replica_lease')
       || '.' || (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint
FROM pg_database d WHERE d.datname = current_database()
"""  # noqa: S608

# Join or renew: write the own row. $1 replica, $2 host, $3 renewal_seq, $4 applied position,
# $5 epoch, $6 ttl in ms, $7 active sessions
WRITE_LEASE = """
INSERT INTO replica_lease AS r (replica_id, host, renewal_seq, applied_position, epoch, ttl_ms,
                                renewed_at, sessions, announces)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp(), $7, true)
ON CONFLICT (replica_id) DO UPDATE
SET host = EXCLUDED.host, renewal_seq = EXCLUDED.renewal_seq,
    applied_position = GREATEST(r.applied_position, EXCLUDED.applied_position),
    epoch = EXCLUDED.epoch, ttl_ms = EXCLUDED.ttl_ms, renewed_at = EXCLUDED.renewed_at,
    sessions = EXCLUDED.sessions, announces = true
RETURNING xmax = 0 AS joined
"""

# The head and the epoch, and the hash of the event that a replica has applied last. Runs after
# the row's commit, as a statement of its own. $1 applied position
READ_HEAD_AND_EPOCH = f"""
SELECT h.position, ({READ_EPOCH}) AS epoch, e.leaf_hash
FROM log_head h LEFT JOIN events e ON e.position = $1
"""  # noqa: S608

# All leases together with the head, the epoch and the incarnation, in one snapshot, and with what
# is noted of this incarnation.
READ_LEASES = f"""
SELECT h.position AS head, ({READ_EPOCH}) AS epoch, i.name AS incarnation, n.age_ms, n.empty,
       r.replica_id, r.host, r.renewal_seq, r.applied_position, r.epoch AS replica_epoch, r.ttl_ms,
       r.sessions, clock_timestamp() - r.renewed_at AS age
FROM log_head h
CROSS JOIN ({READ_INCARNATION}) AS i(name)
LEFT JOIN incarnation_note n ON n.incarnation = i.name
LEFT JOIN replica_lease r ON true
"""  # noqa: S608

# The hosts whose replicas do not keep what is announced: their version does not know of it.
HOSTS_WITHOUT_ANNOUNCEMENTS = """
SELECT DISTINCT host FROM replica_lease WHERE announces IS NOT TRUE ORDER BY host
"""

# Note what is known of an incarnation, for who starts later. $1 incarnation, $2 for how many ms at
# least it has lasted, $3 whether the log was empty in it
NOTE_INCARNATION = """
INSERT INTO incarnation_note AS n (incarnation, age_ms, empty) VALUES ($1, $2, $3)
ON CONFLICT (one) DO UPDATE
SET incarnation = EXCLUDED.incarnation,
    age_ms = CASE WHEN n.incarnation = EXCLUDED.incarnation
                  THEN GREATEST(n.age_ms, EXCLUDED.age_ms) ELSE EXCLUDED.age_ms END,
    empty = EXCLUDED.empty OR (n.empty AND n.incarnation = EXCLUDED.incarnation)
"""

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

# All sessions in the order of the replica, each as its packed record (sessions.rules.record).
# 262968 hours lie between 1970, from which the record counts, and 2000, from which PostgreSQL does.
COPY_SESSIONS = """
SELECT token_digest,
       '\\x01'::bytea
       || timestamptz_send(LEAST(expires_at, CASE WHEN is_token
                                 THEN COALESCE(date_trunc('day', seen_at, 'UTC')
                                               + interval '24 hours', started_at)
                                 ELSE seen_at + idle_s * interval '250 milliseconds' END)
                           + interval '262968 hours')
       || uuid_send(session_id) || uuid_send(subject_id)
       || timestamptz_send(started_at + interval '262968 hours')
       || substr(int8send(COALESCE(extract(epoch FROM absolute_at - started_at) * 1000000, 0)
                          ::bigint), 3)
       || int4send(COALESCE(idle_s, 0))
       || textsend(array_to_string(roles, ','))
       || CASE WHEN amr = '{}' AND authenticated_at IS NULL THEN ''
               ELSE '\\x00'::bytea || textsend(array_to_string(amr, ',')) END
       || COALESCE('\\x00'::bytea
                   || timestamptz_send(authenticated_at + interval '262968 hours'), '')
FROM active_sessions ORDER BY token_digest
"""

# Wakes whoever follows the log; carries nothing, and nothing depends on it.
NOTIFY_LOG = "NOTIFY gatelog_log"

# Acknowledgements need not wait for the disk; renewals must, and do on every other connection.
COMMIT_WITHOUT_WAITING = "SET synchronous_commit = off"
COMMIT_THIS_WITHOUT_WAITING = "SET LOCAL synchronous_commit = off"
