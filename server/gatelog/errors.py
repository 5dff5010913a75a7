"""The one tree of errors.

Every error that may reach a caller knows its stable ``code``, its HTTP status and its title; an
instance adds the detail. Driver errors and constraint names become these in one place
(``gatelog.log.store.database``); the web layer turns them into problem details (RFC 9457).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar


class GatelogError(Exception):
    """Something that Gatelog refuses or cannot do.

    A handler may let it through: it becomes a problem document (RFC 9457) with ``status`` and
    ``code``, which never change for a class. ``retry_after_s``: after how many seconds it is worth
    another try, where that is known.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.retry_after_s = retry_after_s


# 400: the request is not what the protocol asks for


class BadRequest(GatelogError):
    code, status, title = "bad_request", 400, "The request is malformed"


class MalformedJson(BadRequest):
    code, title = "malformed_json", "The body is not valid JSON"


class NotFound(GatelogError):
    code, status, title = "not_found", 404, "There is nothing here"


class NoSuchRole(NotFound):
    code, title = "no_such_role", "There is no such role"


class NotSealed(NotFound):
    """The event, or the log, is in no signed tree yet; ask again in a second."""

    code, title = "not_sealed", "This is not sealed yet"


class PasskeysOff(NotFound):
    """Nobody has said under which address browsers reach this service (GATELOG_PUBLIC_URL)."""

    code, title = "passkeys_off", "There are no passkeys here"


class Purged(GatelogError):
    """It was in the log and has been given up, at the end of its retention."""

    code, status, title = "purged", 410, "This is not in the log any more"


class MethodNotAllowed(GatelogError):
    code, status, title = "method_not_allowed", 405, "This method is not allowed here"


class RequestTimedOut(GatelogError):
    code, status, title = "request_timeout", 408, "The request did not arrive in time"


class ExpectationFailed(GatelogError):
    code, status, title = "expectation_failed", 417, "This expectation cannot be met"


class BodyTooLarge(GatelogError):
    code, status, title = "body_too_large", 413, "The body is too large"


class UnsupportedMediaType(GatelogError):
    code, status, title = "unsupported_media_type", 415, "The body must be application/json"


class InvalidInput(GatelogError):
    code, status, title = "invalid_input", 422, "The input is not acceptable"


class WeakPassword(InvalidInput):
    code, title = "weak_password", "The password is not acceptable"


class SessionDataTooLarge(InvalidInput):
    """An application keeps more in a session than there is room for."""

    code, title = "session_data_too_large", "The session holds too much"


# 401 and 403: who is asking, and what they may do


class NotAuthenticated(GatelogError):
    code, status, title = "not_authenticated", 401, "Login required"


class RecentLoginRequired(NotAuthenticated):
    """The session is active, and its login older than what it is asked for allows."""

    code, title = "recent_login_required", "Log in again"


class FactorRequired(GatelogError):
    """The password is right, and it takes a second factor: one of ``means`` answers ``challenge``.

    ``expires_at``: until when (UTC); ``passkey``: what a browser is asked, where one would do.
    """

    code, status, title = "factor_required", 401, "A second factor is required"

    def __init__(
        self,
        challenge: str,
        *,
        expires_at: datetime,
        means: tuple[str, ...],
        passkey: dict[str, Any] | None = None,
    ) -> None:
        super().__init__("Answer the challenge with one of your factors.")
        self.challenge = challenge
        self.expires_at = expires_at
        self.means = means
        self.passkey = passkey


class FactorLoginRequired(NotAuthenticated):
    """The session is active, and began without the factors that it is asked for."""

    code, title = "factor_login_required", "Log in again, with a second factor"


class ChallengeOver(GatelogError):
    """What was to be answered is answered, too old, or void: it begins anew."""

    code, status = "challenge_over", 401
    title = "This took too long, or was answered: begin again"


class AnswerRefused(GatelogError):
    """A wrong code, one that was taken before, or a passkey that is not right."""

    code, status, title = "wrong_factor", 401, "The second factor is not right"


class InvalidCredentials(GatelogError):
    """Unknown user, wrong password or disabled user: deliberately the same answer."""

    code, status, title = "invalid_credentials", 401, "Login or password is wrong"


class Forbidden(GatelogError):
    code, status, title = "forbidden", 403, "Not allowed"


class TokenNotAllowed(Forbidden):
    """A machine's token was used for what only its user may do, logged in."""

    code, title = "token_not_allowed", "A token cannot do this"


class RegistrationClosed(Forbidden):
    code, title = "registration_closed", "Registration is closed"


class RecoveryClosed(Forbidden):
    code, title = "recovery_closed", "No links are sent by mail here"


class LinkUnusable(Forbidden):
    """Used, late, of somebody else, overtaken, or never made: deliberately the same answer."""

    code, title = "link_unusable", "This link does not work, or not any more"


class CrossSiteRequest(Forbidden):
    code, title = "cross_site_request", "Refused: the request comes from another site"


class Premature(Forbidden):
    """A prefetch or prerender of something that changes state.

    403: browsers then ask again when the page is opened, and nobody tries again before, as a 425
    or 503 would have them do.
    """

    code, title = "premature_request", "This is not done ahead of time"


# 409: the state does not allow it


class Conflict(GatelogError):
    code, status, title = "conflict", 409, "The state does not allow this"


class LoginTaken(Conflict):
    code, title = "login_taken", "This login is taken"


class LastAdmin(Conflict):
    code, title = "last_admin", "Nobody would be left to administer"


class TooManySessions(Conflict):
    """The user has as many sessions as are allowed, and the oldest one is not to end for it."""

    code, title = "too_many_sessions", "There are too many sessions"


class WrongCode(Conflict):
    """What was to confirm a new factor does not: it is not the code that there is now."""

    code, title = "wrong_code", "This does not confirm the factor"


class TooManyFactors(Conflict):
    code, title = "too_many_factors", "There are too many factors"


class TooManyTokens(Conflict):
    """The user has as many tokens for machines as are allowed."""

    code, title = "too_many_tokens", "There are too many tokens"


class DraftOutdated(Conflict):
    """The draft, or what is live, is another one than the caller has seen."""

    code, title = "draft_outdated", "There is another draft or build by now"


class NothingToBuild(Conflict):
    code, title = "nothing_to_build", "This is live already"


class HostsTooOld(Conflict):
    """There are hosts of a version that could not serve what is to be built."""

    code, title = "hosts_too_old", "Not all hosts have been upgraded yet"


class NotBuildable(InvalidInput):
    """A composition that cannot be made live; ``faults``: why, each in a sentence."""

    code, title = "not_buildable", "This cannot be built"

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(" ".join(faults[:3]))
        self.faults = faults


class EventIdConflict(Conflict):
    """The event id is in the log already, with other bytes."""

    code, title = "event_id_conflict", "This event id is in use for another event"


# 429: too much of it, from there or for that account


class TooManyAttempts(GatelogError):
    """Too many logins failed, from there or for that account; the same if there is no such user.

    ``budget``: which one is used up (``accounts.rules.throttling``); nobody outside is told.
    """

    code, status, title = "too_many_attempts", 429, "Too many attempts; try again later"

    def __init__(self, budget: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(retry_after_s=retry_after_s)
        self.budget = budget


class TooManyRecords(GatelogError):
    """A composed endpoint has recorded of this user what it may in an hour."""

    code, status, title = "too_many_records", 429, "This was recorded too often; try again later"


class TooManyChanges(GatelogError):
    """The composition was changed and built as often as it may be in a day."""

    code, status, title = "too_many_changes", 429, "There were too many changes; try again later"


# 502: somebody else's answer cannot be handed on


class UpstreamFailed(GatelogError):
    """An upstream gave no answer, not in time, or none that is handed on."""

    code, status, title = "upstream_failed", 502, "What stands behind this does not answer"


# 503: it cannot be known or done right now; never a guess


class Unavailable(GatelogError):
    code, status, title = "unavailable", 503, "Temporarily unavailable"

    def __init__(self, detail: str | None = None, *, retry_after_s: int | None = 1) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)


class DatabaseUnavailable(Unavailable):
    code, title = "database_unavailable", "The database does not answer"


class HistoryLost(DatabaseUnavailable):
    """The database lacks what was signed: a backup was restored, and nobody has said so yet."""

    code, title = "history_lost", "The database is behind what was signed"


class OutcomeUnknown(Unavailable):
    """The commit was sent and no answer came: it may or may not have happened."""

    code, title = "outcome_unknown", "It is not known whether this was recorded; try again"


class SearchIncomplete(Unavailable):
    """Events that an older version appended cannot be found by network or login name yet."""

    code, title = "search_incomplete", "Not all events can be searched yet; try again"


class Overloaded(Unavailable):
    code, title = "overloaded", "Too much waits already; try again"


class HashingFull(Overloaded):
    code, title = "hashing_full", "Too many logins at once; try again"


class StaleMasterKey(Unavailable):
    """A new key was wrapped with a master key that is not the current one any more."""

    code, title = "stale_master_key", "The master key has just changed; try again"


class KeysUnavailable(Unavailable):
    """What is personal cannot be sealed or opened: the master key is not the right one."""

    code, title = "keys_unavailable", "The master key is not there"


# For operators: the command line prints these in one line and exits


class OperatorError(GatelogError):
    code, title = "operator_error", "Gatelog cannot do this"


class ConfigError(OperatorError):
    """A setting is unknown, malformed or unreadable; ``setting`` names it."""

    code, title = "config_error", "The configuration is wrong"

    def __init__(self, setting: str, detail: str) -> None:
        super().__init__(f"{setting}: {detail}")
        self.setting = setting


class SchemaMismatch(OperatorError):
    code, title = "schema_mismatch", "The database schema is not the one this version needs"


class LogDamaged(OperatorError):
    """The event log breaks its own rules (a gap, an undecodable entry, an unknown type)."""

    code, title = "log_damaged", "The event log is damaged"


class NotVerified(OperatorError):
    """A proof, a checkpoint or a signature that does not hold; a base for the ways how."""

    code, title = "not_verified", "This does not verify"


class MalformedProof(NotVerified):
    """The text or the bytes are not of the form that the specification asks for."""

    code, title = "malformed_proof", "This is not well-formed"


class InvalidProof(NotVerified):
    code, title = "invalid_proof", "The proof does not hold"


class InvalidSignature(NotVerified):
    code, title = "invalid_signature", "The signature does not hold"


class SealingRefused(OperatorError):
    """The log is not an extension of what was signed, or another key signed it."""

    code, title = "sealing_refused", "The log cannot be sealed"


class LogDiffers(GatelogError):
    """The log is not the one that the replica was made from."""

    code, title = "log_differs", "The log is shorter than or different from what was applied"


class NotUnderstood(GatelogError):
    """There is an event that this version of the program cannot read: a newer one wrote it."""

    code, title = "not_understood", "The log holds events of a newer version"


class EventsLost(LogDiffers):
    """What was applied is not in the log: a backup, or a standby that did not have all."""

    code, title = "events_lost", "Events that were in the log are gone"
