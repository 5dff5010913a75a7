"""What is known of the database's incarnation, for processes that have just started.

Revision ID: 0008
"""

from gatelog.migrations.script import run_script

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# One row: the incarnation that was seen last, for how long at least it had lasted, and whether the
# log was empty in it. It says nothing about any other incarnation, so a copy of it does no harm.
NOTE = """
CREATE TABLE incarnation_note (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    incarnation text    NOT NULL,
    age_ms      bigint  NOT NULL CHECK (age_ms >= 0),
    empty       boolean NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON incarnation_note TO gatelog_app;
"""

# A log without events has no sessions that anybody might know from before. The name is that of
# READ_INCARNATION.
EMPTY_LOG = """
INSERT INTO incarnation_note (incarnation, age_ms, empty)
SELECT concat_ws('.', c.system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
                 h.epoch, d.oid, pg_relation_filenode('replica_lease'),
                 (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint), 0, true
FROM log_head h, pg_control_system() c, pg_database d
WHERE h.position = 0 AND d.datname = current_database();
"""


def upgrade() -> None:
    run_script(NOTE)
    run_script(EMPTY_LOG)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
