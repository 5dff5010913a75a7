"""One's own second factors: to enrol, list and remove them, and to make recovery codes.

Rules:

- A new factor is confirmed before it counts: by a code of the seed, by an answer of the passkey.
  What is not confirmed is kept nowhere.
- Secrets and names are sealed under the user's key, and shown once or never.
- Who enrols or removes may end all other sessions with it.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from gatelog.accounts.rules.challenges import Challenge, Purpose
from gatelog.accounts.rules.enrolling import (
    NO_SUCH_FACTOR,
    EnrolFactor,
    MakeCodes,
    NoteWrongAnswer,
    RemoveFactor,
    ResetFactors,
)
from gatelog.accounts.rules.events import (
    FactorEnrolled,
    FactorKind,
    FactorRemoved,
    RecoveryCodesMade,
)
from gatelog.accounts.rules.factor_secrets import (
    CODE_BYTES,
    FactorSecret,
    code_digest,
    seal_secret,
    seed_of,
    spell_code,
)
from gatelog.accounts.rules.factors import RECOVERY_CODES, NewFactor
from gatelog.accounts.rules.names import normalise_name
from gatelog.accounts.rules.totp import key_uri, matching_step, written
from gatelog.accounts.service.acting import Act, Acting, Actor, Ended, client_of, who
from gatelog.accounts.service.asking import Asking
from gatelog.accounts.service.notices import Notices
from gatelog.accounts.service.passkeys import Answer, credential_digest
from gatelog.accounts.store.users import Credential, Users
from gatelog.clock import new_event_id, new_random_id
from gatelog.errors import ChallengeOver, NotAuthenticated, NotFound, WrongCode
from gatelog.privacy.rules import NONCE_BYTES, UNKNOWN_CLIENT, Client, Origin
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.events import SessionEnded
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import is_well_formed, token_digest

ISSUER = "Gatelog"
QR_SCALE = 4


class DescribedFactor(msgspec.Struct, frozen=True):
    """A factor as its user sees it."""

    factor_id: UUID
    kind: FactorKind
    name: str
    enrolled_at: datetime
    used_at: datetime | None


class SeedOffer(msgspec.Struct, frozen=True):
    """A seed to be confirmed until then (UTC): as text, as an address, and that as a QR code."""

    challenge: str
    expires_at: datetime
    secret: str
    uri: str
    qr_svg: str


class PasskeyOffer(msgspec.Struct, frozen=True):
    """What a browser takes to make a passkey, which is to be handed in until then (UTC)."""

    challenge: str
    expires_at: datetime
    public_key: dict[str, Any]


class Enrolled(msgspec.Struct, frozen=True):
    """A new factor; the recovery codes if it is the first one; how many sessions ended."""

    factor_id: UUID
    recovery_codes: tuple[str, ...]
    ended: int
    position: int


class UserFactors:
    """The use cases of who has a session, and factors or wants some."""

    def __init__(
        self,
        *,
        users: Users,
        asking: Asking,
        personal: PersonalData,
        acting: Acting,
        notices: Notices,
        cover: Callable[[], str],
    ) -> None:
        """``cover``: makes what older programs find in the place of a password's hash."""
        self._users = users
        self._asking = asking
        self._personal = personal
        self._acting = acting
        self._notices = notices
        self._cover = cover

    async def described(self, subject_id: UUID) -> tuple[list[DescribedFactor], int]:
        """The user's factors, oldest first, and how many recovery codes are left."""
        found = await self._asking.opened(subject_id)
        left = await self._asking.store.codes_left(subject_id)
        return [
            DescribedFactor(
                factor.factor_id, factor.kind, secret.name, factor.enrolled_at, factor.used_at
            )
            for factor, secret in found
        ], left

    # --- TOTP

    async def offer_seed(self, session: Session) -> SeedOffer:
        """A fresh seed, to be confirmed by one of its codes. Raises NotAuthenticated."""
        credential = await self._credential(session)
        challenge, asked = await self._asking.within(
            session.subject_id, session.session_id, credential.credential_version, "totp"
        )
        return await _offered(challenge, asked.challenge.expires_at, credential.login)

    async def offered_seed(self, session: Session, challenge: str) -> SeedOffer:
        """The same offer once more, for who has mistyped. Raises ChallengeOver."""
        asked = await self._waiting(session, challenge, "totp")
        credential = await self._credential(session)
        return await _offered(challenge, asked.expires_at, credential.login)

    async def enrol_seed(
        self,
        session: Session,
        challenge: str,
        code: str,
        *,
        name: str,
        end_others: bool = False,
        client: Client = UNKNOWN_CLIENT,
    ) -> Enrolled:
        """Enrol the seed that was offered. Raises WrongCode, ChallengeOver, TooManyFactors,
        InvalidInput for the name, NotAuthenticated.
        """
        name = normalise_name(name)
        digest = (await self._waiting(session, challenge, "totp")).digest
        seed = seed_of(challenge)
        step = matching_step(seed, code, self._acting.now())
        if step is None:
            await self._note_wrong(session, digest)
            raise WrongCode("This is not the code that the seed has now.")
        secret = FactorSecret(name, seed=seed)
        return await self._enrol(
            session, digest, secret, "totp", step, end_others=end_others, client=client
        )

    # --- passkeys

    async def offer_passkey(self, session: Session) -> PasskeyOffer:
        """Have a browser make a passkey. Raises PasskeysOff, NotAuthenticated."""
        self._asking.passkeys.refuse_if_off()
        credential = await self._credential(session)
        known = [secret for _, secret in await self._asking.opened(session.subject_id)]
        challenge, asked = await self._asking.within(
            session.subject_id, session.session_id, credential.credential_version, "passkey"
        )
        options = await asyncio.to_thread(
            self._asking.passkeys.creation_options,
            challenge,
            session.subject_id,
            credential.login,
            known,
        )
        return PasskeyOffer(challenge, asked.challenge.expires_at, options)

    async def enrol_passkey(
        self,
        session: Session,
        challenge: str,
        passkey: Answer,
        *,
        name: str,
        end_others: bool = False,
        client: Client = UNKNOWN_CLIENT,
    ) -> Enrolled:
        """Enrol the passkey that a browser has made. Raises WrongCode, ChallengeOver,
        TooManyFactors, Conflict for one that is enrolled, InvalidInput for the name, PasskeysOff,
        NotAuthenticated.
        """
        name = normalise_name(name)
        self._asking.passkeys.refuse_if_off()
        digest = (await self._waiting(session, challenge, "passkey")).digest
        found = await asyncio.to_thread(self._asking.passkeys.registered, challenge, passkey)
        if found is None:
            await self._note_wrong(session, digest)
            raise WrongCode("This is not what the browser was asked for.")
        secret = FactorSecret(
            name,
            credential_id=found.credential_id,
            public_key=found.public_key,
            transports=found.transports,
        )
        return await self._enrol(
            session, digest, secret, "passkey", found.counter, end_others=end_others, client=client
        )

    # --- both

    async def _credential(self, session: Session) -> Credential:
        credential = await self._users.by_id(session.subject_id)
        if credential is None:
            raise NotAuthenticated()
        return credential

    async def _waiting(self, session: Session, challenge: str, purpose: Purpose) -> Challenge:
        """A challenge that waits for this session. Raises ChallengeOver."""
        digest = token_digest(challenge) if is_well_formed(challenge) else b""
        asked = await self._asking.store.challenge(digest) if digest else None
        credential = await self._credential(session)
        if (
            asked is None
            or asked.purpose != purpose
            or asked.session_id != session.session_id
            or asked.credential_version != credential.credential_version
            or asked.expires_at <= self._acting.now()
        ):
            raise ChallengeOver()
        return asked

    async def _note_wrong(self, session: Session, digest: bytes) -> None:
        command = NoteWrongAnswer(
            event_id=new_event_id(), subject_id=session.subject_id, challenge=digest
        )
        await self._acting.record(Act(command))

    async def _enrol(
        self,
        session: Session,
        digest: bytes,
        secret: FactorSecret,
        kind: FactorKind,
        counter: int,
        *,
        end_others: bool,
        client: Client,
    ) -> Enrolled:
        subject_id, factor_id = session.subject_id, new_random_id()
        credential = await self._credential(session)
        key = await self._personal.key_of(subject_id)
        if key is None:
            raise NotAuthenticated()
        event = FactorEnrolled(
            **self._acting.about(subject_id, None), factor_id=factor_id, factor=kind
        )
        codes = _new_codes()
        command = EnrolFactor(
            event=self._personal.sealed(event, who(credential.login, client), credential.key),
            factor=NewFactor(
                factor_id=factor_id,
                subject_id=subject_id,
                kind=kind,
                enrolled_at=event.occurred_at,
                counter=counter,
                sealed=seal_secret(secret, key, factor_id, os.urandom(NONCE_BYTES)),
                credential_digest=(
                    credential_digest(secret.credential_id) if kind == "passkey" else None
                ),
            ),
            challenge=digest,
            purpose=kind,
            credential_version=credential.credential_version,
            session_id=session.session_id,
            codes=_digests(codes, subject_id),
            cover=self._cover(),
            end_others=end_others,
            mail=await self._notices.of("factor_added", credential, client),
        )
        recorded = await self._acting.start(Act(command, await self._origin(credential, client)))
        return Enrolled(
            factor_id,
            codes if recorded.count(RecoveryCodesMade) else (),
            recorded.count(SessionEnded),
            recorded.position,
        )

    async def remove(
        self,
        session: Session,
        factor_id: UUID,
        *,
        end_others: bool = False,
        client: Client = UNKNOWN_CLIENT,
    ) -> Ended:
        """Remove a factor; with the last one, the recovery codes go too. Raises NotFound."""
        subject_id = session.subject_id
        factors = {one.factor_id: one for one in await self._asking.store.of_user(subject_id)}
        if factor_id not in factors:
            raise NotFound(NO_SUCH_FACTOR)
        credential = await self._credential(session)
        event = FactorRemoved(
            **self._acting.about(subject_id, None),
            factor_id=factor_id,
            factor=factors[factor_id].kind,
        )
        command = RemoveFactor(
            event=self._personal.sealed(event, who(credential.login, client), credential.key),
            session_id=session.session_id,
            end_others=end_others,
            mail=await self._notices.of("factor_removed", credential, client),
        )
        recorded = await self._acting.start(Act(command, await self._origin(credential, client)))
        return Ended(recorded.count(SessionEnded), recorded.position)

    async def make_codes(
        self, session: Session, client: Client = UNKNOWN_CLIENT
    ) -> tuple[tuple[str, ...], int]:
        """Fresh recovery codes, in the place of those of before, and the position that says so.

        Raises Conflict for who has no factor, NotAuthenticated.
        """
        subject_id, codes = session.subject_id, _new_codes()
        credential = await self._credential(session)
        event = RecoveryCodesMade(**self._acting.about(subject_id, None), count=len(codes))
        command = MakeCodes(
            event=self._personal.sealed(event, who(credential.login, client), credential.key),
            session_id=session.session_id,
            codes=_digests(codes, subject_id),
            mail=await self._notices.of("codes_made", credential, client),
        )
        recorded = await self._acting.record(Act(command, await self._origin(credential, client)))
        return codes, recorded.position

    async def _origin(self, credential: Credential, client: Client) -> Origin | None:
        return await self._personal.origin_of(client, credential.login)

    # --- for who has lost them

    async def reset(self, subject_id: UUID, by: Actor | None = None) -> Ended:
        """Remove all factors and recovery codes of a user, and end all sessions: for
        administrators and operators. Raises NotFound.
        """
        factors = sorted(await self._asking.store.of_user(subject_id), key=lambda f: f.factor_id)
        event = FactorRemoved(
            **self._acting.about(subject_id, by),
            factor_id=factors[0].factor_id if factors else new_random_id(),
            factor=factors[0].kind if factors else "totp",
        )
        client = client_of(by)
        if by is not None:
            sealed = await self._personal.field(by.user_id, client, event.event_id, event.type)
            event = msgspec.structs.replace(event, sealed=sealed)
        credential = await self._users.by_id(subject_id)
        mail = await self._notices.of("factor_removed", credential) if credential else None
        command = ResetFactors(event=event, mail=mail)
        return await self._acting.end(Act(command, await self._personal.origin_of(client)))


def _new_codes() -> tuple[str, ...]:
    return tuple(spell_code(os.urandom(CODE_BYTES)) for _ in range(RECOVERY_CODES))


def _digests(codes: tuple[str, ...], subject_id: UUID) -> frozenset[bytes]:
    found = (code_digest(code, subject_id) for code in codes)
    return frozenset(digest for digest in found if digest is not None)


async def _offered(challenge: str, expires_at: datetime, login: str) -> SeedOffer:
    seed = seed_of(challenge)
    uri = key_uri(seed, login, ISSUER)
    qr_svg = await asyncio.to_thread(_qr_svg, uri)
    return SeedOffer(challenge, expires_at, written(seed), uri, qr_svg)


def _qr_svg(uri: str) -> str:
    """The address as a QR code, an SVG of its own."""
    import segno

    out = io.BytesIO()
    segno.make(uri, error="m").save(out, kind="svg", scale=QR_SCALE, xmldecl=False)
    return out.getvalue().decode()
