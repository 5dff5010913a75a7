"""All types of events and all kinds of state, of every room.

A new one is added here, in one line; all else of it stands in its room.
"""

from __future__ import annotations

from gatelog.accounts.rules.events import (
    CredentialChanged,
    DeviceAdded,
    FactorEnrolled,
    FactorRemoved,
    LinkMade,
    LinkUsed,
    LoginFailed,
    LoginsThrottled,
    MailAddressRemoved,
    MailAddressVerified,
    PasswordLocked,
    PasswordUnlocked,
    RecoveryAsked,
    RecoveryCodesMade,
    RecoveryCodeUsed,
    RoleGranted,
    RoleRevoked,
    UserDisabled,
    UserEnabled,
    UserRegistered,
)
from gatelog.accounts.store.factors import CHALLENGES, FACTORS, RECOVERY_CODES
from gatelog.accounts.store.kinds import LOGINS, USERS
from gatelog.accounts.store.links import LINKS, MAIL_ADDRESSES, REQUESTS
from gatelog.accounts.store.throttling import DEVICES, NOTED, STREAKS, TRIES
from gatelog.audit.rules.events import AuditRead
from gatelog.composer.rules.events import AppRecorded, CompositionBuilt, DraftChanged
from gatelog.composer.store.kinds import COMPOSING, RECORDS
from gatelog.log.rules.events import LogPurged, register_events
from gatelog.log.store.kinds import register_kinds
from gatelog.mail.store.outbox import OUTBOX
from gatelog.privacy.rules import UserErased
from gatelog.privacy.store.kinds import ADDRESSES, SUBJECT_KEYS
from gatelog.sessions.rules.events import (
    SessionEnded,
    SessionsRenewed,
    SessionStarted,
    TokenCreated,
)
from gatelog.sessions.store.announced import ANNOUNCEMENTS
from gatelog.sessions.store.kind import SESSIONS

EVENTS = (
    UserRegistered,
    CredentialChanged,
    LoginFailed,
    SessionStarted,
    SessionsRenewed,
    SessionEnded,
    RoleGranted,
    RoleRevoked,
    UserDisabled,
    UserEnabled,
    UserErased,
    AuditRead,
    LogPurged,
    LoginsThrottled,
    PasswordLocked,
    PasswordUnlocked,
    FactorEnrolled,
    FactorRemoved,
    RecoveryCodesMade,
    RecoveryCodeUsed,
    RecoveryAsked,
    LinkMade,
    LinkUsed,
    MailAddressVerified,
    MailAddressRemoved,
    TokenCreated,
    DeviceAdded,
    DraftChanged,
    CompositionBuilt,
    AppRecorded,
)
KINDS = (
    SESSIONS,
    USERS,
    LOGINS,
    SUBJECT_KEYS,
    ADDRESSES,
    TRIES,
    STREAKS,
    NOTED,
    DEVICES,
    FACTORS,
    RECOVERY_CODES,
    CHALLENGES,
    LINKS,
    REQUESTS,
    MAIL_ADDRESSES,
    OUTBOX,
    ANNOUNCEMENTS,
    COMPOSING,
    RECORDS,
)


def register_all() -> None:
    """Make all of it known to the log; whoever opens the log calls this first, and may again."""
    register_events(*EVENTS)
    register_kinds(*KINDS)
