"""How many connections the services of a process take."""

from __future__ import annotations

from gatelog.config import Config

SINGLE_CONNECTIONS = 3  # of ``open_services``, beside its pools: appender, lookup, barrier


def connections_of_services(config: Config) -> int:
    """How many connections to the database ``open_services`` has at a time, at most."""
    return config.database_pool + 2 * config.audit_pool + SINGLE_CONNECTIONS
