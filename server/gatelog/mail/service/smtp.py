"""The server that takes mails: one connection for a few of them, with TLS as its URL says.

Its certificate is checked, against what the system trusts (or ``SSL_CERT_FILE``).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email.message import EmailMessage
from email.utils import parseaddr

import aiosmtplib

from gatelog.config import Config
from gatelog.errors import Unavailable
from gatelog.settings import SmtpServer

TIMEOUT_S = 30.0


class NotTaken(Unavailable):
    """The server does not take the mail, now (``for_good`` is False) or ever."""

    code, title = "mail_not_taken", "The mail server does not take this now"

    def __init__(self, detail: str, *, for_good: bool = False) -> None:
        super().__init__(detail)
        self.for_good = for_good


class Post:
    """A connection to the server, on which mails are handed over."""

    def __init__(self, client: aiosmtplib.SMTP, sender: str) -> None:
        self._client = client
        self._sender = sender

    async def hand_over(self, message: EmailMessage, to: str) -> None:
        """Returns when the server has taken the mail. Raises NotTaken.

        A connection that breaks after the last byte leaves open whether it has.
        """
        try:
            await self._client.sendmail(self._sender, [to], message.as_bytes())
        except aiosmtplib.SMTPRecipientsRefused as error:
            for_good = all(500 <= refused.code < 600 for refused in error.recipients)
            raise NotTaken(_told(error), for_good=for_good) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise NotTaken(_told(error)) from error


@asynccontextmanager
async def opened_post(config: Config, server: SmtpServer) -> AsyncIterator[Post]:
    """A connection to the server. Raises NotTaken where there is none to be had."""
    client = aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        username=server.user or None,
        password=server.password or None,
        use_tls=server.tls == "implicit",
        start_tls=server.tls == "starttls",
        tls_context=ssl.create_default_context() if server.tls != "none" else None,
        timeout=TIMEOUT_S,
    )
    try:
        await client.connect()
    except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
        client.close()
        raise NotTaken(_told(error)) from error
    try:
        yield Post(client, parseaddr(config.mail_from)[1])
        await _farewell(client)
    finally:
        client.close()


async def _farewell(client: aiosmtplib.SMTP) -> None:
    # everything is handed over: how the server says goodbye is its own affair
    with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        await client.quit()


def _told(error: Exception) -> str:
    """What went wrong, without any address: the server may quote one."""
    code = getattr(error, "code", None)
    return f"{type(error).__name__}{f' {code}' if isinstance(code, int) else ''}"
