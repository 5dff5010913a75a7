"""The requirements that are looked at: what each asks for, and what is said where there is no test.

Of OWASP ASVS 5.0 (https://github.com/OWASP/ASVS, 5.0/en) the chapters about sessions and logins, of
NIST SP 800-63B-4 (https://pages.nist.gov/800-63-4/sp800-63b.html) the sections about them. Numbers,
levels and titles are the standards'; what is asked is said in words of our own.

A requirement is met by the test of its name in this folder (V7.1.1: ``test_v7_1_1``), whose
docstring says how; or it is ``planned``; or it is ``absent``: it does not apply, and why. With a
test and a plan it is met in part. ``docs/asvs.md`` is made of this (``python docs/make_asvs.py``).
"""

from __future__ import annotations

from typing import Final

import msgspec

NO_FEDERATION: Final = (
    "There is no federation: the service takes no other's word for who somebody is, and gives no"
    " assertion that outlives a request. A proxy or application behind it asks for each request"
    " (docs/forward-auth.md), so there is one session with one life."
)


class Requirement(msgspec.Struct, frozen=True):
    """One requirement. ``level``: ASVS's, 1 to 3; 0 for NIST, which has none."""

    id: str
    level: int
    asks: str
    planned: str = ""
    absent: str = ""


class Section(msgspec.Struct, frozen=True):
    """A section of a standard, by its own number and title."""

    id: str
    title: str
    requirements: tuple[Requirement, ...]


def _of(number: str, level: int, asks: str, *, planned: str = "", absent: str = "") -> Requirement:
    return Requirement(number, level, asks, planned, absent)


ASVS: Final = (
    Section(
        "V3.3",
        "Cookie Setup",
        (
            _of("V3.3.1", 1, "Cookies travel over TLS only, and their names have a secure prefix."),
            _of("V3.3.2", 2, "`SameSite` of each cookie fits what the cookie is for."),
            _of("V3.3.3", 2, "Cookies that are for one host have the `__Host-` prefix."),
            _of("V3.3.4", 2, "Scripts cannot read the token, in a cookie or anywhere else."),
            _of("V3.3.5", 3, "Name and value of a cookie have 4,096 bytes at most."),
        ),
    ),
    Section(
        "V3.4",
        "Browser Security Mechanism Headers",
        (
            _of("V3.4.1", 1, "Browsers are told to come by TLS alone."),
            _of("V3.4.2", 1, "Other origins read only what they are meant to."),
            _of("V3.4.3", 2, "A content security policy says what may run in a page."),
            _of("V3.4.4", 2, "No answer is taken for another type than it says."),
            _of("V3.4.5", 2, "Other hosts are not told the address of a page."),
            _of("V3.4.6", 2, "A page says who may embed it."),
            _of("V3.4.8", 3, "A page keeps to itself what other windows may do with it."),
        ),
    ),
    Section(
        "V3.5",
        "Browser Origin Separation",
        (
            _of("V3.5.1", 1, "A request that another site forges does nothing."),
            _of("V3.5.2", 1, "What a preflight protects cannot be called without one."),
            _of("V3.5.3", 1, "Safe methods change nothing, or Fetch Metadata is checked strictly."),
        ),
    ),
    Section(
        "V6.1",
        "Authentication Documentation",
        (
            _of(
                "V6.1.1",
                1,
                "It is written down how guessing and stuffing are resisted, and how nobody is"
                " locked out by others.",
            ),
            _of(
                "V6.1.2", 2, "The words of the context that passwords may not use are written down."
            ),
            _of("V6.1.3", 2, "All ways to log in are written down, with their strength."),
        ),
    ),
    Section(
        "V6.2",
        "Password Security",
        (
            _of("V6.2.1", 1, "Passwords have 8 characters at least, better 15."),
            _of("V6.2.2", 1, "Users can change their password."),
            _of("V6.2.3", 1, "A change takes the current password and the new one."),
            _of("V6.2.4", 1, "New passwords are compared with 3,000 common ones that would pass."),
            _of("V6.2.5", 1, "Any characters may be used, and none must be."),
            _of("V6.2.6", 1, "Fields for passwords hide what is typed."),
            _of("V6.2.7", 1, "Pasting and password managers are not hindered."),
            _of("V6.2.8", 1, "The password is verified as it came, uncut and with its case."),
            _of("V6.2.9", 2, "Passwords of 64 characters are taken."),
            _of("V6.2.10", 2, "Passwords do not expire with time."),
            _of("V6.2.11", 2, "The words of the context are used against passwords easy to guess."),
            _of("V6.2.12", 2, "New passwords are compared with breached ones."),
        ),
    ),
    Section(
        "V6.3",
        "General Authentication Security",
        (
            _of(
                "V6.3.1",
                1,
                "Guessing and stuffing are resisted as the documentation says.",
            ),
            _of("V6.3.2", 1, "There are no default accounts."),
            _of(
                "V6.3.3",
                2,
                "More than one factor is used to log in.",
            ),
            _of("V6.3.4", 2, "There is no undocumented way in, and all are equally strong."),
            _of("V6.3.5", 3, "Users are told of suspicious attempts to log in."),
            _of(
                "V6.3.6",
                3,
                "Mail is no factor.",
                absent="A mail brings a link that sets a password; no login asks for one.",
            ),
            _of("V6.3.7", 3, "Users are told of changes of their credentials."),
            _of(
                "V6.3.8",
                3,
                "Whether an account exists cannot be told from a failed login, by answer or time.",
                planned="open registration that does not say whether a name is taken; by default it"
                " is closed, or open for the first user.",
            ),
        ),
    ),
    Section(
        "V6.4",
        "Authentication Factor Lifecycle and Recovery",
        (
            _of(
                "V6.4.1", 1, "First passwords and codes are random, and good once and not for long."
            ),
            _of("V6.4.2", 1, "There are no hints for passwords and no secret questions."),
            _of("V6.4.3", 2, "A forgotten password is reset securely, past no other factor."),
            _of("V6.4.4", 2, "Who has lost a factor proves who they are, as at their enrolment."),
            _of(
                "V6.4.5",
                3,
                "Who has a factor that expires is told in time.",
                absent="Passwords do not expire.",
            ),
            _of("V6.4.6", 3, "Administrators start a reset, and do not choose the password."),
        ),
    ),
    Section(
        "V6.5",
        "General Multi-factor authentication requirements",
        (
            _of("V6.5.1", 2, "Look-up secrets and one-time passwords open once."),
            _of("V6.5.2", 2, "Look-up secrets of 112 bits and more are hashed, others slowly."),
            _of("V6.5.3", 2, "Look-up secrets and seeds are made by a CSPRNG."),
            _of("V6.5.4", 2, "Look-up secrets have 20 bits of entropy at least."),
            _of("V6.5.5", 2, "One-time passwords by time live for 30 seconds at most."),
            _of("V6.5.6", 3, "Any factor can be revoked when it is lost."),
            _of(
                "V6.5.7",
                3,
                "Biometrics are used with something that one has or knows, and never alone.",
                absent="The service sees none. They unlock a passkey on its own device, which is"
                " something that one has.",
            ),
            _of("V6.5.8", 3, "One-time passwords go by the clock of a trusted service."),
        ),
    ),
    Section(
        "V6.7",
        "Cryptographic authentication mechanism",
        (
            _of("V6.7.1", 3, "What verifies the signatures of devices cannot be changed."),
            _of("V6.7.2", 3, "The nonce of a challenge has 64 bits at least, and is unique."),
        ),
    ),
    Section(
        "V7.1",
        "Session Management Documentation",
        (
            _of(
                "V7.1.1",
                2,
                "Idle and absolute lifetimes are written down, and where they differ from NIST's.",
            ),
            _of("V7.1.2", 2, "It is written down how many sessions one may have, and what then."),
            _of("V7.1.3", 2, "Systems of a federation are written down.", absent=NO_FEDERATION),
        ),
    ),
    Section(
        "V7.2",
        "Fundamental Session Management Security",
        (
            _of("V7.2.1", 1, "Tokens are verified by a trusted service."),
            _of("V7.2.2", 1, "Tokens are made for each session; there are no static keys."),
            _of("V7.2.3", 1, "Tokens are unique, from a CSPRNG, with 128 bits of entropy."),
            _of(
                "V7.2.4",
                1,
                "Logging in, again too, gives a fresh token and ends the current one.",
            ),
        ),
    ),
    Section(
        "V7.3",
        "Session Timeout",
        (
            _of(
                "V7.3.1",
                2,
                "Sessions end when they are idle.",
            ),
            _of("V7.3.2", 2, "Sessions end after a longest time."),
        ),
    ),
    Section(
        "V7.4",
        "Session Termination",
        (
            _of("V7.4.1", 1, "A session that has ended is not accepted anywhere."),
            _of("V7.4.2", 1, "Disabling or deleting an account ends its sessions."),
            _of("V7.4.3", 2, "Other sessions can be ended when a credential has changed."),
            _of("V7.4.4", 2, "Every page has a visible way to log out."),
            _of("V7.4.5", 2, "Administrators can end the sessions of a user."),
        ),
    ),
    Section(
        "V7.5",
        "Defenses Against Session Abuse",
        (
            _of("V7.5.1", 2, "What concerns logging in is changed only after logging in fully."),
            _of("V7.5.2", 2, "Users see their sessions, and end any after authenticating again."),
            _of("V7.5.3", 3, "What is highly sensitive takes a further authentication."),
        ),
    ),
    Section(
        "V7.6",
        "Federated Re-authentication",
        (
            _of("V7.6.1", 2, "Lifetimes of a federation are as documented.", absent=NO_FEDERATION),
            _of("V7.6.2", 2, "No session begins without something that the user does for it."),
        ),
    ),
    Section(
        "V11.4",
        "Hashing and Hash-based Functions",
        (_of("V11.4.2", 2, "Passwords are stored by a slow, approved function, set as of today."),),
    ),
    Section(
        "V11.5",
        "Random Values",
        (_of("V11.5.1", 2, "What must not be guessed is 128 random bits from a CSPRNG or more."),),
    ),
    Section(
        "V13.4",
        "Unintended Information Leakage",
        (_of("V13.4.6", 3, "No versions of what is behind are told."),),
    ),
    Section(
        "V16.1",
        "Security Logging Documentation",
        (_of("V16.1.1", 2, "There is an inventory of what is logged, where, how, for how long."),),
    ),
    Section(
        "V16.2",
        "General Logging",
        (
            _of("V16.2.1", 2, "Entries say when, where, who and what."),
            _of("V16.2.2", 2, "Clocks agree; times are UTC or say their offset."),
            _of("V16.2.3", 2, "Logs go only where the inventory says."),
            _of("V16.2.4", 2, "Logs can be read by the programs that process them."),
            _of("V16.2.5", 2, "Secrets are not logged; what is sensitive is logged as it may be."),
        ),
    ),
    Section(
        "V16.3",
        "Security Events",
        (
            _of(
                "V16.3.1",
                2,
                "Logins are logged, failed and successful ones, and by what means.",
            ),
            _of("V16.3.2", 2, "Refused authorisations are logged."),
            _of(
                "V16.3.3",
                2,
                "What goes around controls is logged: of input, logic, and against robots.",
            ),
            _of("V16.3.4", 2, "Unexpected errors and failures of what is behind are logged."),
        ),
    ),
    Section(
        "V16.4",
        "Log Protection",
        (
            _of("V16.4.1", 2, "Nothing that is logged can forge or break a line."),
            _of("V16.4.2", 2, "Logs cannot be read by others, nor changed."),
            _of("V16.4.3", 2, "Logs are sent to a separate system, securely."),
        ),
    ),
    Section(
        "V16.5",
        "Error Handling",
        (
            _of("V16.5.1", 2, "Unexpected errors are answered without anything of the inside."),
            _of("V16.5.2", 2, "The service stays secure while what it needs is away."),
            _of("V16.5.3", 2, "An exception never lets anybody in."),
            _of("V16.5.4", 3, "What nobody catches is caught, logged, and ends no process."),
        ),
    ),
)

NIST: Final = (
    Section(
        "NIST 3.1",
        "Requirements by Authenticator Type",
        (
            _of(
                "NIST 3.1.2",
                0,
                "Look-Up Secrets: random, each used once, hashed, and by rate limiting if short.",
            ),
            _of(
                "NIST 3.1.4",
                0,
                "Single-Factor OTP: each is accepted once, for a limited time, with rate limiting;"
                " the seed has 112 bits at least and is protected.",
            ),
            _of(
                "NIST 3.1.7",
                0,
                "Multi-Factor Cryptographic Authentication: the key signs a nonce of 64 bits at"
                " least, and only when its user has been verified.",
            ),
        ),
    ),
    Section(
        "NIST 3.2",
        "General Authenticator Requirements",
        (
            _of(
                "NIST 3.2.2",
                0,
                "Rate limiting: at most 100 failed attempts in a row on one account.",
            ),
            _of("NIST 3.2.5", 0, "Phishing resistance: the answer is bound to the verifier."),
            _of("NIST 3.2.7", 0, "Replay resistance: an answer that was recorded opens nothing."),
            _of("NIST 3.2.8", 0, "Authentication intent: the user responds to each request."),
        ),
    ),
    Section(
        "NIST 5",
        "Session Management",
        (
            _of("NIST 5", 0, "A session begins with an authentication, and goes on until it ends."),
            _of(
                "NIST 5.1",
                0,
                "Session Bindings: the secret is made by the service at the login, random, of 64"
                " bits at least, gone with the logout, of limited life, and not for TLS to lose.",
            ),
            _of(
                "NIST 5.1.1",
                0,
                "Browser Cookies: secure, for one host, not for scripts, with an end, opaque.",
            ),
            _of(
                "NIST 5.2",
                0,
                "Reauthentication: an overall and an inactivity timeout, written down; activity"
                " resets one, a login both.",
            ),
        ),
    ),
)

SECTIONS: Final = (*ASVS, *NIST)


def requirements() -> dict[str, Requirement]:
    """All of them, by number."""
    return {found.id: found for section in SECTIONS for found in section.requirements}


def name_of_test(number: str) -> str:
    """The name of the test of a requirement: V7.1.1 has ``test_v7_1_1``."""
    return "test_" + number.lower().replace(".", "_").replace(" ", "_")
