"""The listening socket of a host: bound early, open when the workers come, and closed last.

The supervisor holds it throughout, so that a connection that arrives while workers are replaced
waits for the next one. Before the service is ready, and when it stops, connections are refused, and
none is taken that is then dropped: a proxy can give every request to somebody else.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from contextlib import suppress

from gatelog.config import Config, variable
from gatelog.errors import ConfigError

logger = logging.getLogger(__name__)

BACKLOG = 2048
_POLL_S = 0.02
_ACCEPT_QUEUE = slice(24, 28)  # tcpi_unacked of a listening socket's tcp_info, linux/tcp.h
_SO_BINDTOIFINDEX = 62  # asm-generic/socket.h
_NO_INTERFACE = 0x7FFFFFFF  # a number that none has


def bound(config: Config) -> socket.socket:
    """The socket, not listening yet. Raises ConfigError that names the setting at fault."""
    try:
        found = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(variable("host"), f"{config.host!r} is no address: {error}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _listen_error(config, error) from error
    return listener


def listen(config: Config, listener: socket.socket) -> None:
    """Let connections in. Raises ConfigError when another program was quicker."""
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise _listen_error(config, error) from error


def stop_listening(listener: socket.socket) -> None:
    """Refuse new connections; those that are under way, or wait, still get to a worker.

    Closing the socket would reset connections whose clients have sent their requests already.
    Bound to an interface that there is not, it is not found any more by what opens a connection
    (SO_BINDTODEVICE in socket(7); for everybody since Linux 5.7).
    """
    if sys.platform != "linux":
        return
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
    except OSError as error:
        logger.warning("connections that arrive during this stop may be reset: %s", error)


async def all_taken(listener: socket.socket, within_s: float) -> None:
    """Return when no connection waits for a worker any more, or after so many seconds.

    What still waits when the socket is closed is reset (Linux, tcp(7), TCP_INFO).
    """
    with suppress(OSError, AttributeError):  # elsewhere there is no TCP_INFO
        for _ in range(round(within_s / _POLL_S)):
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPT_QUEUE.stop)
            if not any(info[_ACCEPT_QUEUE]):
                return
            await asyncio.sleep(_POLL_S)


def _listen_error(config: Config, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            variable("port"), f"port {config.port} on {config.host} is taken by another program"
        )
    if error.errno == errno.EACCES:
        return ConfigError(variable("port"), f"this user may not listen on port {config.port}")
    return ConfigError(variable("host"), f"cannot listen on {config.host}: {error.strerror}")


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Host and port where a client on this host reaches the listener."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104


def url_of(listener: socket.socket) -> str:
    host, port = address_of(listener)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
