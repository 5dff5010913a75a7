"""Mails that must go out: written with the events that they tell of, and sealed until they do.

Rules:

- A mail is written in the transaction of what it tells: it is never of what did not happen, and
  what happened is never without it.
- What it says, whom it goes to and the link in it are sealed under the user's key, and gone when it
  is sent, when the user is erased, or when it is given up.

Format::

    key      HMAC-SHA-256(user's key, "mail" ‖ 0x00 ‖ mail id (16 bytes))
    sealed   nonce (12 bytes) ‖ AES-256-GCM(key, nonce, MessagePack of the letter, AAD) with its tag
    AAD      mail id (16 bytes)
"""

from __future__ import annotations

import hmac
from datetime import datetime
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gatelog.log.rules.events import Event
from gatelog.log.rules.kinds import Beside, State, Trace, World
from gatelog.privacy.rules import NONCE_BYTES, UserErased

HOUR_S = 3600
GIVEN_UP_AFTER_S = 24 * HOUR_S
FIRST_RETRY_S, LAST_RETRY_S = 5, HOUR_S


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """What a mail is made of. ``token``: of the link in it, which is good for ``lifetime_s``;
    ``agent``: the user agent of who did what it tells of.
    """

    template: str
    to: str
    login: str
    token: str | None = None
    lifetime_s: int = 0
    agent: str | None = None


class Mail(Beside, frozen=True, kw_only=True):
    """A mail to a user; ``link_digest``: of the link in it, without which it is nothing."""

    mail_id: UUID
    subject_id: UUID
    sealed: bytes
    written_at: datetime
    link_digest: bytes | None = None

    def enter(self, world: World) -> None:
        world.of(Outbox).new[self.mail_id] = self


def mailed(mail: Mail | None) -> tuple[Beside, ...]:
    """What a decision writes beside the log for this mail, if there is one."""
    return () if mail is None else (mail,)


class Outbox(State):
    """What a batch changes of the mails to send."""

    concerns = (UserErased,)

    def __init__(self) -> None:
        self.new: dict[UUID, Mail] = {}
        self.erased: list[UUID] = []

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if event.subject_id is not None:
            self.erased.append(event.subject_id)
            self.new = {k: v for k, v in self.new.items() if v.subject_id != event.subject_id}


def retry_after_s(tries: int) -> int:
    """How long to wait after so many failures."""
    return min(FIRST_RETRY_S << min(tries, 16), LAST_RETRY_S)


def seal_letter(letter: Letter, subject_key: bytes, mail_id: UUID, nonce: bytes) -> bytes:
    """What may be stored of a mail."""
    cipher = AESGCM(_key(subject_key, mail_id))
    return nonce + cipher.encrypt(nonce, msgspec.msgpack.encode(letter), mail_id.bytes)


def open_letter(sealed: bytes, subject_key: bytes, mail_id: UUID) -> Letter | None:
    """What the mail is made of; None for what was sealed otherwise."""
    nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        plain = AESGCM(_key(subject_key, mail_id)).decrypt(nonce, text, mail_id.bytes)
        return msgspec.msgpack.decode(plain, type=Letter)
    except (InvalidTag, ValueError, msgspec.DecodeError):
        return None


def _key(subject_key: bytes, mail_id: UUID) -> bytes:
    return hmac.digest(subject_key, b"mail\x00" + mail_id.bytes, "sha256")
