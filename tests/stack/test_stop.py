"""A stop under load: whoever got a connection gets an answer, and everybody else is refused."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from gatelog.host.listening import all_taken, stop_listening

from tests.stack.service import Service
from tests.waiting import eventually

CLIENTS = 24
REQUESTS_BEFORE = 500
PATIENCE_S = 60.0
HEADERS = ("Host: localhost", "Content-Length: 0", "Connection: close")
REQUEST = "\r\n".join(("POST /v1/logout_user HTTP/1.1", *HEADERS, "", "")).encode()


class Client:
    """Asks again and again, each time on a new connection, until it is refused."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.lost: list[str] = []

    def run(self) -> None:
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
            except ConnectionRefusedError:
                return
            with connection:
                self._ask(connection)

    def _ask(self, connection: socket.socket) -> None:
        try:
            connection.sendall(REQUEST)
            answer = connection.recv(64)
        except OSError as error:
            answer = repr(error).encode()
        if answer.startswith(b"HTTP/1.1 200"):
            self.answered += 1
        else:
            self.lost.append(answer.decode())


def test_a_stop_loses_no_connection(service: Service) -> None:
    clients = [Client(service.port) for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client.run) for client in clients]
        eventually(
            lambda: sum(client.answered for client in clients) > REQUESTS_BEFORE, PATIENCE_S, "load"
        )
        assert service.stop() == 0
        for client in running:
            client.result(2 * PATIENCE_S)

    assert [lost for client in clients for lost in client.lost] == []


def test_who_comes_too_late_is_refused_and_who_waits_is_not() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as early,
    ):
        early.sendall(REQUEST)
        stop_listening(listener)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname(), PATIENCE_S)
        taken, _ = listener.accept()
        with taken:
            assert taken.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
            taken.sendall(b"answer")
            assert early.recv(6, socket.MSG_WAITALL) == b"answer"


async def test_a_connection_that_waits_for_a_worker_is_waited_for() -> None:
    limit_s = 0.2
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        began = time.monotonic()
        await all_taken(listener, limit_s)
        assert time.monotonic() - began > limit_s / 2, "nobody has taken it"
        waiting = asyncio.create_task(all_taken(listener, 10 * PATIENCE_S))
        taken, _ = listener.accept()
        async with asyncio.timeout(PATIENCE_S):
            await waiting
        taken.close()
