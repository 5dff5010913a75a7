"""What happens to users and their credentials."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from gatelog.log.rules.events import Event, UserEvent

# Known devices have the last few of the failures in a row for themselves.
LockedFor = Literal["unknown_devices", "all_devices"]
FailureReason = Literal[
    "unknown_login",
    "wrong_password",
    "user_disabled",
    "wrong_code",
    "wrong_passkey",
    "unknown_passkey",
]
FactorKind = Literal["totp", "passkey"]
LinkPurpose = Literal["reset", "invitation", "address"]


class UserRegistered(UserEvent, frozen=True, kw_only=True, tag="user_registered"):
    """A user exists from here on."""


class CredentialChanged(UserEvent, frozen=True, kw_only=True, tag="credential_changed"):
    """The user's password was replaced."""


class LoginFailed(Event, frozen=True, kw_only=True, tag="login_failed"):
    """A login was refused; ``subject_id`` is missing when nobody has that login."""

    subject_id: UUID | None = None
    reason: FailureReason


class LoginsThrottled(Event, frozen=True, kw_only=True, tag="logins_throttled"):
    """So many logins from one place were refused unseen, since the last such event of the place."""

    count: int


class PasswordLocked(UserEvent, frozen=True, kw_only=True, tag="password_locked"):
    """After too many failures in a row the password opens nothing more, until it is unlocked."""

    reason: LockedFor


class PasswordUnlocked(UserEvent, frozen=True, kw_only=True, tag="password_unlocked"):
    """The failures are forgiven."""


class RecoveryAsked(Event, frozen=True, kw_only=True, tag="recovery_asked"):
    """Somebody asked for a link by a login; whether there is such a user, nobody has looked."""


class LinkMade(UserEvent, frozen=True, kw_only=True, tag="link_made"):
    """A one-time link was made: to set a password, to choose the first one, to prove an address."""

    what: LinkPurpose


class LinkUsed(UserEvent, frozen=True, kw_only=True, tag="link_used"):
    """A one-time link was used, for what comes next in the log."""

    what: LinkPurpose


class MailAddressVerified(UserEvent, frozen=True, kw_only=True, tag="mail_address_verified"):
    """The user reads what is sent to an address, which is the one to write to from here on."""


class MailAddressRemoved(UserEvent, frozen=True, kw_only=True, tag="mail_address_removed"):
    """There is no address to write to any more."""


class DeviceAdded(UserEvent, frozen=True, kw_only=True, tag="device_added"):
    """The login of this session was from a device that the account had not been used on.

    Only devices that keep a cookie are told apart, and the first one of an account is not new.
    """

    session_id: UUID


class RoleGranted(UserEvent, frozen=True, kw_only=True, tag="role_granted"):
    role: str


class RoleRevoked(UserEvent, frozen=True, kw_only=True, tag="role_revoked"):
    role: str


class UserDisabled(UserEvent, frozen=True, kw_only=True, tag="user_disabled"):
    """The user cannot log in until enabled again."""


class UserEnabled(UserEvent, frozen=True, kw_only=True, tag="user_enabled"):
    pass


class FactorEnrolled(UserEvent, frozen=True, kw_only=True, tag="factor_enrolled"):
    """From here on it takes this factor, or another one of the user's, to log in."""

    factor_id: UUID
    factor: FactorKind


class FactorRemoved(UserEvent, frozen=True, kw_only=True, tag="factor_removed"):
    """The factor opens nothing any more."""

    factor_id: UUID
    factor: FactorKind


class RecoveryCodesMade(UserEvent, frozen=True, kw_only=True, tag="recovery_codes_made"):
    """So many recovery codes are there, and those of before are none any more."""

    count: int


class RecoveryCodeUsed(UserEvent, frozen=True, kw_only=True, tag="recovery_code_used"):
    """One was taken in the place of a factor; ``count`` are left."""

    count: int
