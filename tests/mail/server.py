"""A mail server for tests: it keeps what it is given, and can be slow, refuse, or break off."""

from __future__ import annotations

import asyncio
import email
import email.policy
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any

import msgspec
from aiosmtpd.smtp import SMTP, Envelope, Session
from gatelog.config import Config

SENDER = "Gate <gate@example.com>"
PAGE = "https://app.example/welcome"
_LINK = re.compile(rf"{re.escape(PAGE)}#(\w+)=([A-Za-z0-9_-]+)")


class Received(msgspec.Struct, frozen=True):
    """A mail that the server has taken."""

    to: str
    message: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def plain(self) -> str:
        body = self.message.get_body(("plain",))
        assert body is not None
        return str(body.get_content())

    @property
    def token(self) -> str:
        """What is in its link."""
        match = _LINK.search(self.plain)
        assert match is not None, self.plain
        return match[2]


class Inbox:
    """What a server has taken; ``refuse``: what it says to recipients, and to data."""

    def __init__(self) -> None:
        self.mails: list[Received] = []
        self.to_recipients: Callable[[str], str] = lambda _: "250 OK"
        self.to_data = "250 OK"
        self.port = 0
        self.hold = asyncio.Event()  # unless it is set, who comes waits
        self.hold.set()
        self.held = 0  # how many had to

    async def handle_RCPT(  # aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if not self.hold.is_set():
            self.held += 1
            await self.hold.wait()
        said = self.to_recipients(address)
        if said.startswith("250"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content: Any = envelope.content
        message: Any = email.message_from_bytes(content, policy=email.policy.default)
        if self.to_data.startswith("250"):
            self.mails += [Received(to, message) for to in envelope.rcpt_tos]
        return self.to_data

    def settings(self, config: Config, url: str = "") -> Config:
        """The configuration with this server in it."""
        return msgspec.structs.replace(
            config,
            smtp_url=url or f"smtp://127.0.0.1:{self.port}",
            mail_from=SENDER,
            link_url=PAGE,
        )


@asynccontextmanager
async def mail_server(
    inbox: Inbox | None = None, *, tls: ssl.SSLContext | None = None, implicit: bool = False
) -> AsyncIterator[Inbox]:
    """A server on the inbox's port, or a free one. ``tls``: by STARTTLS, or ``implicit``."""
    inbox = inbox or Inbox()
    starttls = None if implicit else tls
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(
            inbox,
            hostname="mail.example",
            tls_context=starttls,
            require_starttls=starttls is not None,
        ),
        "127.0.0.1",
        inbox.port,
        ssl=tls if implicit else None,
    )
    inbox.port = server.sockets[0].getsockname()[1]
    try:
        yield inbox
    finally:
        server.close()
