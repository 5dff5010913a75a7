"""Passkeys (W3C WebAuthn, level 2): what a browser is asked for, and whether its answer is right.

Rules:

- A passkey is discoverable and verifies its user (section 5.4.4), so it is two factors by itself:
  what one has, and what one knows or is. No attestation is asked for: nobody here judges makers.
- It is bound to the host of ``GATELOG_PUBLIC_URL`` (the RP id). Answers are taken from that
  origin, and from ``GATELOG_TRUSTED_ORIGINS``: a browser lets no page but of that host, or below
  it, use the passkey. Where the URL is not set there are no passkeys.
- The bytes that are signed are made of the challenge's text, so nothing is kept but its digest.
- Whether a signature counter goes on, is for the log's lock to say (``accounts.rules.proving``).
- The library takes long to load, so it is loaded when somebody has a passkey; and whoever asks
  does so in a thread.
"""

from __future__ import annotations

import json
import logging
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from gatelog.accounts.rules.challenges import LIFETIME_S
from gatelog.accounts.rules.factor_secrets import FactorSecret
from gatelog.config import Config
from gatelog.errors import PasskeysOff

logger = logging.getLogger(__name__)

RP_NAME = "Gatelog"
_MAX_CREDENTIAL_ID = 1023  # bytes (section 4, Credential ID)
_TRANSPORTS = frozenset({"usb", "nfc", "ble", "smart-card", "hybrid", "internal"})

Answer = dict[str, Any]


class Registered(msgspec.Struct, frozen=True):
    """A passkey that a browser has just made, and its signature counter."""

    credential_id: bytes
    public_key: bytes
    counter: int
    transports: tuple[str, ...]


class Asserted(msgspec.Struct, frozen=True):
    """An answer with a right signature. ``synced``: other devices may have the same key."""

    counter: int
    synced: bool

    @property
    def amr(self) -> tuple[str, ...]:
        """By which methods it says who somebody is (RFC 8176, section 2)."""
        return "swk" if self.synced else "hwk", "user", "mfa"


def credential_digest(credential_id: bytes) -> bytes:
    """What a passkey is found by."""
    return sha256(credential_id).digest()


class Passkeys:
    """The relying party."""

    def __init__(self, config: Config) -> None:
        self._host = urlsplit(config.public_url).hostname or ""
        self._origins = sorted({config.public_url} | config.origins_trusted)

    @property
    def on(self) -> bool:
        """Whether there are passkeys here."""
        return bool(self._host)

    def refuse_if_off(self) -> None:
        """Raises PasskeysOff where nobody has said which host they are for."""
        if not self.on:
            raise PasskeysOff("GATELOG_PUBLIC_URL says for which host passkeys are; it is not set.")

    def creation_options(
        self, challenge: str, subject_id: UUID, login: str, known: Sequence[FactorSecret]
    ) -> Answer:
        """What ``navigator.credentials.create`` takes (``publicKey``), in JSON."""
        import webauthn
        from webauthn.helpers import structs

        self.refuse_if_off()
        options = webauthn.generate_registration_options(
            rp_id=self._host,
            rp_name=RP_NAME,
            user_id=subject_id.bytes,  # random, and nobody's name (section 14.6.1)
            user_name=login,
            user_display_name=login,
            challenge=_signed(challenge),
            timeout=LIFETIME_S * 1000,
            authenticator_selection=structs.AuthenticatorSelectionCriteria(
                resident_key=structs.ResidentKeyRequirement.REQUIRED,
                user_verification=structs.UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[_descriptor(each) for each in known if each.credential_id],
        )
        found: Answer = json.loads(webauthn.options_to_json(options))
        return found

    def request_options(self, challenge: str, known: Sequence[FactorSecret] = ()) -> Answer:
        """What ``navigator.credentials.get`` takes (``publicKey``), in JSON; of any passkey for
        this host, where none are known."""
        import webauthn
        from webauthn.helpers import structs

        self.refuse_if_off()
        options = webauthn.generate_authentication_options(
            rp_id=self._host,
            challenge=_signed(challenge),
            timeout=LIFETIME_S * 1000,
            allow_credentials=[_descriptor(each) for each in known],
            user_verification=structs.UserVerificationRequirement.REQUIRED,
        )
        found: Answer = json.loads(webauthn.options_to_json(options))
        return found

    def registered(self, challenge: str, answer: Answer) -> Registered | None:
        """The passkey in this answer to a creation; None if it is not right in any way."""
        import webauthn

        self.refuse_if_off()
        try:
            found = webauthn.verify_registration_response(
                credential=answer,
                expected_challenge=_signed(challenge),
                expected_rp_id=self._host,
                expected_origin=self._origins,
                require_user_verification=True,
            )
        except Exception as error:  # it takes foreign bytes apart, and may meet anything
            logger.info("a passkey is refused: %s", type(error).__name__)
            return None
        if not 0 < len(found.credential_id) <= _MAX_CREDENTIAL_ID:
            return None
        return Registered(
            found.credential_id,
            found.credential_public_key,
            found.sign_count,
            _transports(answer),
        )

    def asserted(self, challenge: str, answer: Answer, secret: FactorSecret) -> Asserted | None:
        """What this answer of a passkey says; None if it is not right in any way."""
        import webauthn
        from webauthn.helpers import structs

        self.refuse_if_off()
        try:
            found = webauthn.verify_authentication_response(
                credential=answer,
                expected_challenge=_signed(challenge),
                expected_rp_id=self._host,
                expected_origin=self._origins,
                credential_public_key=secret.public_key,
                credential_current_sign_count=0,  # compared under the lock
                require_user_verification=True,
            )
        except Exception as error:  # it takes foreign bytes apart, and may meet anything
            logger.info("an answer of a passkey is refused: %s", type(error).__name__)
            return None
        synced = found.credential_device_type == structs.CredentialDeviceType.MULTI_DEVICE
        return Asserted(found.new_sign_count, synced)


def credential_id_of(answer: Answer) -> bytes:
    """Which passkey answers; nothing where it does not say."""
    return _bytes_of(answer.get("rawId"))


def user_of(answer: Answer) -> bytes:
    """Whose passkey it says it is (the user handle); nothing where it does not say."""
    response = answer.get("response")
    return _bytes_of(response.get("userHandle")) if isinstance(response, dict) else b""


def _bytes_of(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > 2 * _MAX_CREDENTIAL_ID:
        return b""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""


def _signed(challenge: str) -> bytes:
    """The bytes that a passkey signs for this challenge."""
    return sha256(b"passkey\x00" + challenge.encode()).digest()


def _descriptor(secret: FactorSecret) -> Any:
    from webauthn.helpers import structs

    return structs.PublicKeyCredentialDescriptor(
        id=secret.credential_id,
        transports=[structs.AuthenticatorTransport(name) for name in secret.transports] or None,
    )


def _transports(answer: Answer) -> tuple[str, ...]:
    """By which ways the authenticator can be reached, of those that are known (section 5.8.4)."""
    response = answer.get("response")
    told = response.get("transports") if isinstance(response, dict) else None
    if not isinstance(told, list):
        return ()
    return tuple(sorted({one for one in told if isinstance(one, str)} & _TRANSPORTS))
