"""Sends the mails of the outbox: one process of all hosts, one mail after the other.

Rules:

- A mail leaves the outbox when the server has taken it, and not before: a crash in between sends it
  again, with the same Message-ID. So each goes out at least once.
- Nobody waits for it: a server that is down, slow or refuses delays mails and nothing else. A mail
  is tried again after 5, 10, 20 … seconds, an hour at most, and given up after a day, or when the
  server says that there is no such address.
- The time of a link begins when it is handed over. A link that is used or overtaken by then is not
  sent: it opens nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import TYPE_CHECKING

from prometheus_client import Counter

from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.errors import GatelogError
from gatelog.mail.rules.outbox import GIVEN_UP_AFTER_S, Letter, open_letter, retry_after_s
from gatelog.mail.rules.texts import TEMPLATES, Text, filled, told_lifetime
from gatelog.mail.service.texts import load_texts
from gatelog.mail.store.outbox import DueMail, OutboxStore
from gatelog.privacy.service.personal import PersonalData
from gatelog.settings import parse_smtp_url

if TYPE_CHECKING:
    from gatelog.mail.service.smtp import Post

logger = logging.getLogger(__name__)

AT_ONCE = 20
LOOK_EVERY_S = 1.0
NEXT_TURN_S = 10.0
STOP_AGAIN_S = 0.5

MAILS = Counter(
    "gatelog_mails_total",
    "Mails by what came of a try: sent, delayed, given_up, overtaken.",
    ["outcome"],
)

StartLink = Callable[[bytes, datetime], Awaitable[bool]]


def no_step(step: str) -> None:
    """Nobody looks on."""


class Mailer:
    """Sends what is due. ``start_link``: the link with this digest goes out now, if it still may.

    ``prepare``: what is to be written before, with each look. ``device_of``: what device a user
    agent is of; it may take its time. ``on_step`` is told of each step.
    """

    def __init__(
        self,
        config: Config,
        *,
        store: OutboxStore,
        personal: PersonalData,
        start_link: StartLink,
        prepare: Callable[[], Awaitable[None]],
        device_of: Callable[[str], str | None],
        now: Callable[[], datetime] = utc_now,
        on_step: Callable[[str], None] = no_step,
    ) -> None:
        self._config = config
        self._store = store
        self._personal = personal
        self._start_link = start_link
        self._prepare = prepare
        self._device_of = device_of
        self._now = now
        self._on_step = on_step
        self._texts: dict[str, Text] | None = None

    # --- turns

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Meanwhile, send what is due whenever nobody else does."""
        task = asyncio.create_task(self._work(), name="mailer")
        try:
            yield
        finally:
            while not task.done():
                # more than once: asyncio.wait_for (to Python 3.11) may swallow it, where what it
                # waits for comes at that moment
                task.cancel()
                await asyncio.wait([task], timeout=STOP_AGAIN_S)

    async def _work(self) -> None:
        while True:
            try:
                async with self._store.turn() as turn:
                    while turn is not None and await turn.lasts():
                        await self.look()
                        await asyncio.sleep(LOOK_EVERY_S)
            except GatelogError as error:
                logger.warning("mails wait: %s", error)
            except Exception:
                logger.exception("mails wait: a defect")
            await asyncio.sleep(NEXT_TURN_S)

    async def look(self) -> None:
        """Send what is due now, all of it."""
        await self._prepare()
        while await self.send_due():
            pass

    # --- sending

    async def send_due(self) -> int:
        """Send some of what is due; returns how many were tried."""
        mails = await self._store.due(self._now(), AT_ONCE)
        if not mails:
            return 0
        self._on_step("due")
        await self._store.sweep(self._now())
        from gatelog.mail.service.smtp import NotTaken

        try:
            async with self._post() as post:
                for mail in mails:
                    await self._send(post, mail)
        except NotTaken as error:
            logger.warning("the mail server does not answer: %s", error)
            for mail in mails:  # those that are gone meanwhile are not there to be postponed
                await self._failed(mail)
        return len(mails)

    def _post(self) -> AbstractAsyncContextManager[Post]:
        from gatelog.mail.service.smtp import opened_post

        return opened_post(self._config, parse_smtp_url(self._config.smtp_url))

    async def _send(self, post: Post, mail: DueMail) -> None:
        from gatelog.mail.service.smtp import NotTaken

        letter = await self._opened(mail)
        if letter is not None and letter.template not in TEMPLATES:
            # of a newer program beside this one, which may send it
            await self._failed(mail)
            return
        if letter is None or not await self._may_go(mail):
            MAILS.labels("overtaken").inc()
            await self._store.forget(mail.mail_id)
            return
        self._on_step("started")
        try:
            written = await asyncio.to_thread(self._written, mail, letter)
            await post.hand_over(written, letter.to)
        except NotTaken as error:
            logger.warning("a mail is not taken: %s", error)
            await self._failed(mail, for_good=error.for_good)
            return
        self._on_step("taken")
        await self._store.forget(mail.mail_id)
        self._on_step("forgotten")
        MAILS.labels("sent").inc()

    async def _opened(self, mail: DueMail) -> Letter | None:
        key = await self._personal.key_of(mail.subject_id)
        return open_letter(mail.sealed, key, mail.mail_id) if key is not None else None

    async def _may_go(self, mail: DueMail) -> bool:
        return mail.link_digest is None or await self._start_link(mail.link_digest, self._now())

    async def _failed(self, mail: DueMail, *, for_good: bool = False) -> None:
        now = self._now()
        if for_good or now - mail.written_at > timedelta(seconds=GIVEN_UP_AFTER_S):
            logger.error("a mail is given up after %d tries", mail.tries + 1)
            MAILS.labels("given_up").inc()
            await self._store.bury(mail.mail_id, now)
            return
        MAILS.labels("delayed").inc()
        wait_s = retry_after_s(mail.tries)
        await self._store.postpone(mail.mail_id, now + timedelta(seconds=wait_s))

    def _written(self, mail: DueMail, letter: Letter) -> EmailMessage:
        """The mail as it goes out."""
        if self._texts is None:
            self._texts = load_texts(self._config)
        link = f"{self._config.link_url}#{letter.template}={letter.token}" if letter.token else ""
        device = self._device_of(letter.agent) if letter.agent else None
        values = {
            "login": letter.login,
            "link": link,
            "lifetime": told_lifetime(letter.lifetime_s),
            "device": device or "an unknown device",
            "time": f"{mail.written_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        }
        message = filled(self._texts[letter.template], values)
        message["From"] = self._config.mail_from
        message["To"] = letter.to
        message["Date"] = format_datetime(mail.written_at)
        domain = parseaddr(self._config.mail_from)[1].rpartition("@")[2]
        message["Message-ID"] = f"<{mail.mail_id}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's robot answers
        return message
