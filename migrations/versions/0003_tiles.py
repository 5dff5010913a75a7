"""What proves the log: the tiles of its Merkle tree, and the checkpoints that were signed.

Revision ID: 0003
"""

from gatelog.migrations.script import run_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# The hashes of a tile, packed; a partial one grows at its end until it has 256 and never changes.
# Hashes do not compress. A growing tile leaves a dead copy behind with each checkpoint, which is
# to be reused before it is a fifth of all tiles.
TILES = """
CREATE TABLE tiles (
    level      smallint NOT NULL CHECK (level BETWEEN 0 AND 63),
    tile_index bigint   NOT NULL CHECK (tile_index >= 0),
    hashes     bytea    NOT NULL CHECK (octet_length(hashes) BETWEEN 32 AND 8192
                                        AND octet_length(hashes) % 32 = 0),
    PRIMARY KEY (level, tile_index)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 20000);
ALTER TABLE tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;
"""

# Every checkpoint, as the signed note that it is.
CHECKPOINTS = """
CREATE TABLE checkpoints (
    size      bigint      PRIMARY KEY CHECK (size > 0),
    note      bytea       NOT NULL CHECK (octet_length(note) <= 1000000),
    signed_at timestamptz NOT NULL
);
"""

APPEND_ONLY = """
CREATE FUNCTION refuse_other_hashes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.level, NEW.tile_index) = (OLD.level, OLD.tile_index)
       AND octet_length(NEW.hashes) > octet_length(OLD.hashes)
       AND substring(NEW.hashes FROM 1 FOR octet_length(OLD.hashes)) = OLD.hashes
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'tile % of level % holds other hashes, and a tile only grows',
        OLD.tile_index, OLD.level USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER only_grows BEFORE UPDATE ON tiles
    FOR EACH ROW EXECUTE FUNCTION refuse_other_hashes();
CREATE TRIGGER append_only BEFORE DELETE ON tiles
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON tiles
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE (hashes) ON tiles TO gatelog_app;
GRANT SELECT, INSERT ON checkpoints TO gatelog_app;
"""


def upgrade() -> None:
    for statements in (TILES, CHECKPOINTS, APPEND_ONLY, GRANTS):
        run_script(statements)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
