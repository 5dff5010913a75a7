"""Whether the process in this container does its work; the exit code says it. No dependencies.

healthcheck.py          the service: it is ready
healthcheck.py sealer   the sealer: it has just sealed, or there was nothing to seal
"""

import os
import socket
import sys
import time
from pathlib import Path

TIMEOUT_S = 3.0
HEARTBEAT_AGE_S = 10.0
REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def sealer() -> int:
    """0 when its heartbeat is young, else 1."""
    try:
        age_s = time.time() - (Path(os.environ["GATELOG_DATA_DIR"]) / "sealing").stat().st_mtime
    except FileNotFoundError:
        return 1
    return int(age_s > HEARTBEAT_AGE_S)


def service() -> int:
    """0 when it is ready, 1 with the answer when it is not."""
    address = "127.0.0.1", int(os.environ.get("GATELOG_PORT", "8080"))
    try:
        with socket.create_connection(address, TIMEOUT_S) as connection:
            connection.sendall(REQUEST)
            answer = connection.recv(4096)
    except OSError as error:
        answer = str(error).encode()
    if answer.startswith(b"HTTP/1.1 200"):
        return 0
    sys.stdout.buffer.write(answer.rpartition(b"\r\n\r\n")[2])
    return 1


if __name__ == "__main__":
    sys.exit(sealer() if sys.argv[1:] == ["sealer"] else service())
