"""The statements of the composer. A test prepares each against the migrated schema."""

# Which draft there is and which build is live, and how many changes there were on a day; under the
# lock of the log's head.
STANDING = """
(SELECT ROW(c.draft, COALESCE(b.build, 0), COALESCE(b.digest, ''::bytea), c.day, c.changes)
 FROM composer c
 LEFT JOIN LATERAL (SELECT build, digest FROM composer_builds ORDER BY build DESC LIMIT 1) b
      ON true)
"""

# A draft in place of the one before.
PUT_DRAFT = """
UPDATE composer SET draft = t.draft, content = t.content, changed_at = t.changed_at,
       changed_by = t.changed_by
FROM unnest({0}::bytea[], {1}::bytea[], {2}::timestamptz[], {3}::uuid[])
     AS t (draft, content, changed_at, changed_by)
"""

# How many changes there were on a day; a statement of its own: it writes the row of a draft.
COUNT_CHANGES = """
UPDATE composer SET day = t.day, changes = t.changes
FROM unnest({0}::text[], {1}::integer[]) AS t (day, changes)
"""

# New builds.
PUT_BUILDS = """
INSERT INTO composer_builds (build, digest, content, position, built_at, built_by, restored)
SELECT build, digest, content, position, built_at, built_by, restored
FROM unnest({0}::bigint[], {1}::bytea[], {2}::bytea[], {3}::bigint[], {4}::timestamptz[],
            {5}::uuid[], {6}::bigint[])
     AS t (build, digest, content, position, built_at, built_by, restored)
"""

# The draft, and the build that is live.
READ_DRAFT = """
SELECT draft, content, changed_at, changed_by,
       (SELECT max(build) FROM composer_builds) AS live
FROM composer
"""

# One build. $1 its number
READ_BUILD = """
SELECT build, digest, content, position, built_at, built_by, restored
FROM composer_builds WHERE build = $1
"""

# Some builds before one, the newest first, without their content. $1 before, $2 how many
LIST_BUILDS = """
SELECT build, digest, ''::bytea AS content, position, built_at, built_by, restored
FROM composer_builds WHERE build < $1 ORDER BY build DESC LIMIT $2
"""

# Contents that are not what the log says they are.
WRONG_BUILDS = """
SELECT 'composer_builds', build, 'has another content than its digest says'
FROM composer_builds WHERE sha256(content) <> digest
"""
WRONG_DRAFT = """
SELECT 'composer', draft, 'has another content than its digest says'
FROM composer WHERE draft <> '' AND sha256(content) <> draft
"""

# How often users were recorded with these names. {0} users, {1} names
RECORDS = """
ARRAY(SELECT ROW(subject_id, name, since, count) FROM app_records
      WHERE (subject_id, name) IN (SELECT * FROM unnest({0}::uuid[], {1}::text[])))
"""

# The same, as it is after a batch.
PUT_RECORDS = """
INSERT INTO app_records (subject_id, name, since, count)
SELECT subject_id, name, since, count
FROM unnest({0}::uuid[], {1}::text[], {2}::timestamptz[], {3}::integer[])
     AS t (subject_id, name, since, count)
ON CONFLICT (subject_id, name) DO UPDATE SET since = EXCLUDED.since, count = EXCLUDED.count
"""

# Who is erased.
ERASE_RECORDS = "DELETE FROM app_records WHERE subject_id = ANY({0}::uuid[])"
