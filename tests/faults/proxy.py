"""A TCP proxy in front of PostgreSQL that can cut, freeze and slow down what passes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

# Rounds of the event loop that are enough from accept(2) to ``_accept``: it takes two.
ACCEPTING = 5


class Proxy:
    """Listens on a loopback port; every connection goes on to the server's Unix socket."""

    def __init__(self, socket: Path) -> None:
        self.port = 0
        self._socket = socket
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def drop(self) -> None:
        """Cut every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def refuse(self, refusing: bool) -> None:
        """Cut every connection, and every new one at once, until told otherwise."""
        self._refusing = refusing
        if refusing:
            self.drop()

    def freeze(self) -> None:
        """Let nothing pass, in either direction, and tell nobody: a black hole."""
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    async def close(self) -> None:
        """End everything; call it when nothing is accepted any more."""
        self.thaw()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            await self._close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._refusing:
                return
            await self._open.wait()
            upstream = await asyncio.open_unix_connection(str(self._socket))
            self._writers.add(upstream[1])
            try:
                await asyncio.gather(
                    self._pass(reader, upstream[1]), self._pass(upstream[0], writer)
                )
            finally:
                await self._close(upstream[1])
        except OSError:
            pass
        finally:
            await self._close(writer)

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one direction has ended: so does the other

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@asynccontextmanager
async def proxying(socket: Path) -> AsyncIterator[Proxy]:
    """A proxy to this Unix socket, on a free port."""
    proxy = Proxy(socket)
    server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for _ in range(ACCEPTING):
            await asyncio.sleep(0)  # what was accepted a moment ago is ours, too
        await proxy.close()
        await server.wait_closed()
