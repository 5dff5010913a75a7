"""Ways back in, invitations and addresses of mail: who asks, who makes a link, and who uses one.

Rules:

- Who asks by a login is answered before anybody has looked whether there is such a user: who sends
  mails does that (``answer``). So neither the answer nor its time depends on it.
- A link exists only in the mail that it goes out with, sealed until then, or in the answer to the
  operator or administrator who made it.
- A password is hashed for who has a link that may work, and for nobody else.
- Mail goes to the verified address of a user only; an address is verified by a link sent to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from gatelog.accounts.rules.credentials import normalise_login
from gatelog.accounts.rules.events import (
    LinkMade,
    LinkPurpose,
    LinkUsed,
    MailAddressRemoved,
    MailAddressVerified,
    RecoveryAsked,
    UserRegistered,
)
from gatelog.accounts.rules.links import LIFETIMES_S, SETTING_A_PASSWORD, Link, link_digest
from gatelog.accounts.rules.recovery import (
    AskRecovery,
    InviteUser,
    MakeLink,
    RemoveAddress,
    SetPassword,
    VerifyAddress,
)
from gatelog.accounts.service.acting import NO_SUCH_USER, Act, Acting, Actor, Ended, client_of, who
from gatelog.accounts.service.logins import Logins
from gatelog.accounts.service.notices import Notices, To
from gatelog.accounts.service.throttling import Throttle
from gatelog.accounts.service.users import check_role
from gatelog.accounts.store.links import LinkStore, Waiting
from gatelog.accounts.store.users import Credential, Users
from gatelog.clock import new_event_id, new_random_id
from gatelog.config import Config
from gatelog.errors import (
    EventIdConflict,
    LinkUnusable,
    NotAuthenticated,
    NotFound,
    RecoveryClosed,
    StaleMasterKey,
)
from gatelog.ids import derived_event_id
from gatelog.log.store.batch import Recorded
from gatelog.mail.rules.addresses import check_address, open_address, seal_address
from gatelog.privacy.rules import NONCE_BYTES, UNKNOWN_CLIENT, Client, Personal
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import is_well_formed
from gatelog.sessions.service.tokens import new_token

ANSWERED_AT_ONCE = 50
ASKED_TOO_LONG_AGO = timedelta(hours=1)  # nobody waits for the mail any more


class MadeLink(msgspec.Struct, frozen=True):
    """A link: handed out with its token, which exists nowhere else, or None where it is mailed."""

    subject_id: UUID
    position: int
    lifetime_s: int
    token: str | None
    link: str | None


class Recovery:
    """The use cases of who cannot log in, or not yet."""

    def __init__(
        self,
        config: Config,
        *,
        users: Users,
        store: LinkStore,
        personal: PersonalData,
        acting: Acting,
        throttle: Throttle,
        logins: Logins,
        notices: Notices,
        new_link_token: Callable[[], str] = new_token,
    ) -> None:
        self._config = config
        self._users = users
        self._store = store
        self._personal = personal
        self._acting = acting
        self._throttle = throttle
        self._logins = logins
        self._notices = notices
        self._new_token = new_link_token

    # --- asking

    async def ask(self, login: str, client: Client = UNKNOWN_CLIENT) -> None:
        """Somebody wants a link sent to the user with this login, if there is one.

        Raises RecoveryClosed where no mail is sent, InvalidInput, TooManyAttempts.
        """
        if not self._config.mails:
            raise RecoveryClosed("Ask whoever runs this service for a link.")
        login = normalise_login(login)
        approach = await self._throttle.recovering(login, client)
        self._throttle.refuse_again(approach)
        event = RecoveryAsked(event_id=new_event_id(), occurred_at=self._acting.now())
        event = await self._personal.sealed_for_nobody(event, who(login, client))
        command = AskRecovery(event=event, admission=self._throttle.asking(approach))
        origin = await self._personal.origin_of(client, login)
        await self._throttle.record(approach, Act(command, origin))

    async def answer(self) -> None:
        """Look up who asked, and have a link sent to those who exist and have an address."""
        while waiting := await self._store.requests(ANSWERED_AT_ONCE):
            for request in waiting:
                if not await self._answered(request):
                    await self._store.drop_request(request.event_id)
        await self._store.sweep(self._acting.now())

    async def _answered(self, request: Waiting) -> bool:
        """Whether a link was made, and the request with it is gone."""
        now = self._acting.now()
        if request.event is None or now - request.asked_at > ASKED_TOO_LONG_AGO:
            return False
        (asked,) = await self._personal.open_personal([request.event])
        if asked is None or asked.login is None:
            return False
        credential = await self._users.by_login(asked.login)
        if credential is None or credential.disabled:
            return False
        key = await self._personal.key_of(credential.subject_id)
        address = await self._address(credential.subject_id, key)
        if key is None or address is None:
            return False
        # by the request: whoever answers it a second time has not answered it
        event_id = derived_event_id(request.event_id, 1)
        event = LinkMade(
            event_id=event_id, occurred_at=now, subject_id=credential.subject_id, what="reset"
        )
        token, to = self._new_token(), To(event.subject_id, credential.login, address, key)
        command = MakeLink(
            event=event,
            digest=link_digest(token),
            mail=self._notices.mail("reset", to, token),
            answers=request.event_id,
        )
        try:
            await self._acting.record(Act(command))
        except (NotFound, EventIdConflict):
            return False
        return True

    # --- making

    async def reset(self, subject_id: UUID, by: Actor | None = None) -> MadeLink:
        """A link for a user, made by an operator or administrator.

        It goes to the user's address, if an administrator makes it and there is one; else it is
        handed out. Raises NotFound.
        """
        credential = await self._users.by_id(subject_id)
        if credential is None:
            raise NotFound(NO_SUCH_USER)
        token, mail = self._new_token(), None
        key = await self._personal.key_of(subject_id)
        if by is not None and self._config.mails and key is not None:
            address = await self._address(subject_id, key)
            if address is not None:
                mail = self._notices.mail(
                    "reset", To(subject_id, credential.login, address, key), token
                )
        event = LinkMade(**self._acting.about(subject_id, by), what="reset")
        if by is not None:
            sealed = await self._personal.field(by.user_id, by.client, event.event_id, event.type)
            event = msgspec.structs.replace(event, sealed=sealed)
        command = MakeLink(event=event, digest=link_digest(token), mail=mail)
        origin = await self._personal.origin_of(client_of(by))
        recorded = await self._acting.record(Act(command, origin))
        return self._made("reset", subject_id, recorded, None if mail is not None else token)

    async def invite(
        self,
        login: str,
        roles: tuple[str, ...] = (),
        address: str | None = None,
        by: Actor | None = None,
    ) -> MadeLink:
        """Create a user without a password, and a link by which they choose one.

        With an ``address``, it is sent there, which the link verifies; else it is handed out.
        Raises LoginTaken, InvalidInput, NoSuchRole, RecoveryClosed where no mail is sent.
        """
        for role in roles:
            check_role(role, self._config.role_names)
        if address is not None and not self._config.mails:
            raise RecoveryClosed("No mail is sent here; invite without an address.")
        login, address = normalise_login(login), check_address(address) if address else None
        subject_id, token = new_random_id(), self._new_token()
        key, wrapped = await self._personal.new_subject_key(subject_id)
        event = UserRegistered(**self._acting.about(subject_id, by))
        if by is None:
            event = self._personal.sealed_with(event, Personal(login), key)
        else:
            sealed = await self._personal.field(by.user_id, by.client, event.event_id, event.type)
            event = msgspec.structs.replace(event, sealed=sealed)
        mail = None
        if address is not None:
            mail = self._notices.mail("invitation", To(subject_id, login, address, key), token)
        command = InviteUser(
            event=event,
            login=login,
            password_hash=self._logins.hash_of_nothing(),
            key=wrapped,
            roles=tuple(dict.fromkeys(roles)),
            digest=link_digest(token),
            sealed=_sealed(address, key, subject_id),
            mail=mail,
        )
        origin = await self._personal.origin_of(client_of(by), login if by is None else None)
        try:
            recorded = await self._acting.record(Act(command, origin))
        except StaleMasterKey:
            wrapped = await self._personal.wrap_again(subject_id, key)
            command = msgspec.structs.replace(command, key=wrapped)
            recorded = await self._acting.record(Act(command, origin))
        return self._made("invitation", subject_id, recorded, None if address else token)

    def _made(
        self, purpose: LinkPurpose, subject_id: UUID, recorded: Recorded, token: str | None
    ) -> MadeLink:
        page = self._config.link_url
        link = f"{page}#{purpose}={token}" if page and token else None
        return MadeLink(subject_id, recorded.position, LIFETIMES_S[purpose], token, link)

    # --- using

    async def set_password(
        self, token: str, password: str, client: Client = UNKNOWN_CLIENT
    ) -> Ended:
        """Set a password by a link, and end all sessions; says so by mail.

        Raises LinkUnusable, WeakPassword, InvalidInput, HashingFull.
        """
        link, credential, key = await self._found(token)
        if link.purpose not in SETTING_A_PASSWORD:
            raise LinkUnusable()
        hashed = await self._logins.hash_new(password, credential.login, client)
        to = open_address(link.sealed, key, link.subject_id) if link.sealed else None
        to = to or await self._address(link.subject_id, key)
        mail = None
        if to is not None and self._config.mails and link.purpose == "reset":
            mail = self._notices.mail(
                "password_set", To(link.subject_id, credential.login, to, key)
            )
        event = LinkUsed(**self._acting.about(link.subject_id, None), what=link.purpose)
        event = self._personal.sealed_with(event, who(credential.login, client), key)
        command = SetPassword(event=event, digest=link.digest, password_hash=hashed, mail=mail)
        origin = await self._personal.origin_of(client, credential.login)
        return await self._acting.end(Act(command, origin))

    async def _found(self, token: str) -> tuple[Link, Credential, bytes]:
        """The link, its user and the user's key. Raises LinkUnusable where one is missing.

        What else may be wrong with it, is decided under the lock of the log's head.
        """
        link = await self._store.find(link_digest(token)) if is_well_formed(token) else None
        if link is None or link.expires_at <= self._acting.now():
            raise LinkUnusable()
        credential = await self._users.by_id(link.subject_id)
        key = await self._personal.key_of(link.subject_id)
        if credential is None or key is None:
            raise LinkUnusable()
        return link, credential, key

    # --- addresses of mail

    async def address_of(self, subject_id: UUID) -> tuple[str, datetime] | None:
        """The user's verified address, and since when it is: for that user's own eyes."""
        found = await self._store.address(subject_id)
        key = await self._personal.key_of(subject_id) if found is not None else None
        address = open_address(found[0], key, subject_id) if found and key else None
        return (address, found[1]) if address is not None and found is not None else None

    async def propose_address(
        self, session: Session, address: str, client: Client = UNKNOWN_CLIENT
    ) -> None:
        """Send a link to this address, which makes it the user's.

        Raises RecoveryClosed, InvalidInput, NotAuthenticated, TooManyAttempts.
        """
        if not self._config.mails:
            raise RecoveryClosed("No mail is sent here.")
        subject_id, address = session.subject_id, check_address(address)
        credential, key = await self._own(subject_id)
        approach = await self._throttle.recovering(credential.login, client)
        self._throttle.refuse_again(approach)
        await self._throttle.record(approach, Act(self._throttle.asking(approach)))
        token = self._new_token()
        event = LinkMade(**self._acting.about(subject_id, None), what="address")
        command = MakeLink(
            event=self._personal.sealed_with(event, who(credential.login, client), key),
            digest=link_digest(token),
            sealed=_sealed(address, key, subject_id),
            mail=self._notices.mail(
                "address", To(subject_id, credential.login, address, key), token
            ),
        )
        await self._acting.record(
            Act(command, await self._personal.origin_of(client, credential.login))
        )

    async def verify_address(self, token: str, client: Client = UNKNOWN_CLIENT) -> Recorded:
        """Use a link that was sent to an address. Raises LinkUnusable."""
        link, credential, key = await self._found(token)
        if link.purpose != "address":
            raise LinkUnusable()
        event = MailAddressVerified(**self._acting.about(link.subject_id, None))
        command = VerifyAddress(
            event=self._personal.sealed_with(event, who(credential.login, client), key),
            digest=link.digest,
            mail=await self._notices.of("address_changed", credential, client),
        )
        origin = await self._personal.origin_of(client, credential.login)
        return await self._acting.record(Act(command, origin))

    async def remove_address(
        self, session: Session, client: Client = UNKNOWN_CLIENT
    ) -> Recorded | None:
        """Send no more mail to the user; None where there was no address."""
        subject_id = session.subject_id
        if await self._store.address(subject_id) is None:
            return None
        credential, key = await self._own(subject_id)
        event = MailAddressRemoved(**self._acting.about(subject_id, None))
        command = RemoveAddress(
            event=self._personal.sealed_with(event, who(credential.login, client), key),
            mail=await self._notices.of("address_changed", credential, client),
        )
        origin = await self._personal.origin_of(client, credential.login)
        return await self._acting.record(Act(command, origin))

    async def _own(self, subject_id: UUID) -> tuple[Credential, bytes]:
        credential = await self._users.by_id(subject_id)
        key = await self._personal.key_of(subject_id)
        if credential is None or key is None:
            raise NotAuthenticated()
        return credential, key

    async def _address(self, subject_id: UUID, key: bytes | None) -> str | None:
        found = await self._store.address(subject_id)
        return open_address(found[0], key, subject_id) if found and key else None


def _sealed(address: str | None, key: bytes, subject_id: UUID) -> bytes | None:
    if address is None:
        return None
    return seal_address(address, key, subject_id, os.urandom(NONCE_BYTES))
