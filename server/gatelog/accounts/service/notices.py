"""Mails that tell users what has happened to their account.

Rules:

- A mail goes to the verified address of a user and to nobody else, in the transaction of what it
  tells of (``mail.rules.outbox``).
- It says what has happened, when, and on which device; no link, and nothing that opens anything.
- Where no mail is sent, nothing is looked up for one.
"""

from __future__ import annotations

import os
from typing import Literal
from uuid import UUID

import msgspec

from gatelog.accounts.rules.links import LIFETIMES_S, link_digest
from gatelog.accounts.service.acting import Acting
from gatelog.accounts.store.links import LinkStore
from gatelog.accounts.store.users import Credential
from gatelog.clock import new_event_id
from gatelog.config import Config
from gatelog.mail.rules.addresses import open_address
from gatelog.mail.rules.outbox import Letter, Mail, seal_letter
from gatelog.privacy.rules import NONCE_BYTES, UNKNOWN_CLIENT, Client
from gatelog.privacy.service.personal import PersonalData

Notice = Literal[
    "new_device",
    "password_changed",
    "factor_added",
    "factor_removed",
    "codes_made",
    "address_changed",
]


class To(msgspec.Struct, frozen=True):
    """Whom a mail is to, and the key that seals it."""

    subject_id: UUID
    login: str
    address: str
    key: bytes


class Notices:
    """Writes mails to users, for the commands that they tell of."""

    def __init__(
        self, config: Config, *, store: LinkStore, personal: PersonalData, acting: Acting
    ) -> None:
        self._mails = config.mails
        self._store = store
        self._personal = personal
        self._acting = acting

    async def of(
        self, what: Notice, credential: Credential, client: Client = UNKNOWN_CLIENT
    ) -> Mail | None:
        """What tells this user; None where nobody can be told. ``client``: from where it was done.

        Raises KeysUnavailable.
        """
        subject_id = credential.subject_id
        found = await self._store.address(subject_id) if self._mails else None
        key = await self._personal.key_of(subject_id) if found is not None else None
        if found is None or key is None:
            return None
        address = open_address(found[0], key, subject_id)
        if address is None:
            return None
        return self.mail(what, To(subject_id, credential.login, address, key), agent=client.agent)

    def mail(
        self, template: str, to: To, token: str | None = None, agent: str | None = None
    ) -> Mail:
        """A mail of this template; ``token``: of the link in it."""
        mail_id = new_event_id()
        lifetime_s = LIFETIMES_S.get(template, 0)
        letter = Letter(template, to.address, to.login, token, lifetime_s, agent)
        return Mail(
            mail_id=mail_id,
            subject_id=to.subject_id,
            sealed=seal_letter(letter, to.key, mail_id, os.urandom(NONCE_BYTES)),
            written_at=self._acting.now(),
            link_digest=link_digest(token) if token is not None else None,
        )
