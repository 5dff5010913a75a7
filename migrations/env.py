"""Alembic's entry: runs the revisions over asyncpg, in one transaction, as the database's owner.

The connection comes from ``gatelog.log.store.migrate`` through the configuration's attributes.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="gatelog_schema",
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
