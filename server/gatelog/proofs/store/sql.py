"""The statements of tiles, checkpoints and the leaves that they stand for.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

# One sealer in the cluster: true for the connection that has it now, until it ends. $1 key
TAKE_SEALER_LOCK = "SELECT pg_try_advisory_lock($1)"

# The next leaf hashes as one string, and how far the log reaches; one row, NULLs where there are
# none. Bulk, because a sealer must keep up with many appenders. $1 after this position, $2 how many
NEXT_LEAVES = """
SELECT h.position AS head, t.first, t.last, t.hashes
FROM log_head h, (
    SELECT min(position) AS first, max(position) AS last,
           string_agg(leaf_hash, ''::bytea ORDER BY position) AS hashes
    FROM (SELECT position, leaf_hash FROM events WHERE position > $1 ORDER BY position LIMIT $2)
         AS page
) AS t
"""

# Write tiles, and the checkpoint of the tree that they belong to (no row for NULL). A tile that
# is there already may only grow; a trigger refuses anything else.
# $1 levels, $2 indexes, $3 hashes, $4 size, $5 note, $6 signed_at
WRITE_SEAL = """
WITH grown AS (
    INSERT INTO tiles (level, tile_index, hashes)
    SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
    ON CONFLICT (level, tile_index) DO UPDATE SET hashes = EXCLUDED.hashes
    WHERE tiles.hashes <> EXCLUDED.hashes
)
INSERT INTO checkpoints (size, note, signed_at)
SELECT $4::bigint, $5::bytea, $6::timestamptz WHERE $5::bytea IS NOT NULL
"""

# These tiles, those of them that are there. $1 levels, $2 indexes
READ_TILES = """
SELECT level, tile_index, hashes FROM tiles
WHERE (level, tile_index) IN (SELECT * FROM unnest($1::smallint[], $2::bigint[]))
"""

# A page of one level. $1 level, $2 from this index on, $3 how many
READ_LEVEL = """
SELECT tile_index, hashes FROM tiles
WHERE level = $1 AND tile_index >= $2 ORDER BY tile_index LIMIT $3
"""

# How far the tiles of each level reach; a probe of the index for each level.
LAST_TILES = """
SELECT l.level, t.tile_index, t.width
FROM generate_series(0, 63) AS l (level), LATERAL (
    SELECT tile_index, octet_length(hashes) / 32 AS width
    FROM tiles WHERE level = l.level ORDER BY tile_index DESC LIMIT 1
) AS t
"""

# The newest checkpoint.
LAST_CHECKPOINT = "SELECT size, note, signed_at FROM checkpoints ORDER BY size DESC LIMIT 1"

# How far the log reaches, and the checkpoint of this size, NULL where there is none. $1 size
HEAD_AND_CHECKPOINT = """
SELECT h.position, c.note FROM log_head h LEFT JOIN checkpoints c ON c.size = $1
"""

# A page of the checkpoints, in order. $1 after this size, $2 how many
READ_CHECKPOINTS = """
SELECT size, note, signed_at FROM checkpoints WHERE size > $1 ORDER BY size LIMIT $2
"""

# Entries, in order, those of them that are still there. $1 first position, $2 last position
READ_ENTRIES = """
SELECT position, entry FROM events WHERE position BETWEEN $1 AND $2 ORDER BY position
"""

# The same with what is stored as their hashes, for verification.
READ_LEAVES = """
SELECT position, entry, leaf_hash FROM events
WHERE position BETWEEN $1 AND $2 ORDER BY position
"""

# The newest event that is there, whatever the head says.
LAST_EVENT = "SELECT position FROM events ORDER BY position DESC LIMIT 1"
