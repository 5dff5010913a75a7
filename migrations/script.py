"""How a revision runs its SQL: a whole script at once, as it stands."""

from typing import Any

from alembic import op
from sqlalchemy import text


def run_script(sql: str) -> None:
    """Run these statements in the revision's transaction.

    The simple query protocol takes several statements at once; a prepared statement does not.
    """
    bind = op.get_bind()
    bind.execute(text("SELECT 1"))  # the adapter opens its transaction with the first statement
    adapted: Any = bind.connection.dbapi_connection
    adapted.run_async(lambda connection: connection.execute(sql))
