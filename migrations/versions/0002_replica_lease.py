"""The leases of the replicas: one row for each copy of the sessions in some host's memory.

Revision ID: 0002
"""

from gatelog.migrations.script import run_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Logged, on purpose: rows that vanish in a crash would look like "nobody to wait for". Rows are
# updated all the time, so pages keep room for new versions beside the old ones.
REPLICA_LEASE = """
CREATE TABLE replica_lease (
    replica_id       text        PRIMARY KEY,
    host             text        NOT NULL,
    renewal_seq      bigint      NOT NULL,
    applied_position bigint      NOT NULL,
    epoch            text        NOT NULL,
    ttl_ms           integer     NOT NULL CHECK (ttl_ms > 0),
    renewed_at       timestamptz NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
GRANT SELECT, INSERT, UPDATE, DELETE ON replica_lease TO gatelog_app;
"""


def upgrade() -> None:
    run_script(REPLICA_LEASE)


def downgrade() -> None:
    raise NotImplementedError("history is not taken back; restore a backup")
