"""Hashes of passwords as other systems write them: which are taken, and what they may cost.

Taken are, as Django writes them and as passlib does (and whoever follows either)::

    argon2    $argon2{i,d,id}$v=19$m=…,t=…,p=…$salt$hash                     argon2$argon2id$…
    bcrypt    $2a$, $2b$ or $2y$, cost, 22 and 31 characters                  bcrypt$$2b$…
              of a SHA-256: $bcrypt-sha256$v=2,t=2b,r=…$salt$hash      bcrypt_sha256$$2b$…
    scrypt    $scrypt$ln=…,r=…,p=…$salt$hash                      scrypt$n$salt$r$p$hash
    PBKDF2    $pbkdf2$, $pbkdf2-sha256$, $pbkdf2-sha512$       pbkdf2_sha256$rounds$salt$hash

Rules:

- Costs have bounds, in time and in memory: whoever may write a file must not be able to plant a
  login that keeps a thread busy for a minute, or takes the memory of the host.
- A value of less than 16 bytes is refused: so short a one fits too many passwords.
- What a hash costs is named by a text (``cost``), from which one can be made that costs the same
  and that no password fits (``nothing_like``).
- An argon2 hash is kept in Django's spelling: so what this service made itself is told from what
  came from elsewhere, whose passwords were not normalised as ours are.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode

import msgspec

from gatelog.errors import InvalidInput

OWN = "$argon2id$"  # how the service's own hashes begin
MAX_HASH_LENGTH = 1024
LEAST_VALUE_BYTES = 16
MOST_VALUE_BYTES = 128
MAX_SALT_BYTES = 256

# Each about a second of a core, and a bounded part of a host's memory.
MAX_ARGON2_KIB, MAX_ARGON2_KIB_PASSES, MAX_ARGON2_LANES = 262_144, 524_288, 16
MAX_BCRYPT_COST = 14
MAX_SCRYPT_BYTES, MAX_SCRYPT_WORK = 1 << 27, 1 << 20
MAX_PBKDF2_ROUNDS = 2_500_000

_BCRYPT_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LAST_OF_SALT = 28  # in the text of a bcrypt hash


class Argon2(msgspec.Struct, frozen=True):
    """``text``: as argon2 itself writes it."""

    text: str
    variant: str
    memory_kib: int
    passes: int
    lanes: int

    @property
    def cost(self) -> str:
        return f"argon2 {self.variant} {self.memory_kib} {self.passes} {self.lanes}"

    @property
    def kept(self) -> str:
        return f"argon2{self.text}"


class Bcrypt(msgspec.Struct, frozen=True):
    """``text``: as bcrypt itself writes it; ``of``: of the password, or of a digest of it."""

    text: str
    rounds: int
    of: str
    kept: str

    @property
    def cost(self) -> str:
        return f"bcrypt {self.rounds}"


class Scrypt(msgspec.Struct, frozen=True):
    """RFC 7914: ``n``, ``r``, ``p``."""

    n: int
    r: int
    p: int
    salt: bytes
    value: bytes
    kept: str

    @property
    def cost(self) -> str:
        return f"scrypt {self.n} {self.r} {self.p}"

    @property
    def memory(self) -> int:
        """What it takes, in bytes."""
        return 128 * self.r * (self.n + self.p + 2)


class Pbkdf2(msgspec.Struct, frozen=True):
    """RFC 8018, section 5.2, with HMAC of this digest."""

    digest: str
    rounds: int
    salt: bytes
    value: bytes
    kept: str

    @property
    def cost(self) -> str:
        return f"pbkdf2 {self.digest} {self.rounds} {len(self.value)}"


ForeignHash = Argon2 | Bcrypt | Scrypt | Pbkdf2


def is_foreign(text: str) -> bool:
    """Whether another system has made this (stored) hash."""
    return not text.startswith(OWN)


def parse_hash(text: str) -> ForeignHash:
    """The hash in this text. Raises InvalidInput, which does not quote it."""
    if len(text) > MAX_HASH_LENGTH or not text.isascii():
        raise InvalidInput("The hash is too long, or holds characters that no hash has.")
    for pattern, make in _FORMS:
        if (match := pattern.fullmatch(text)) is not None:
            return make(match)
    raise InvalidInput("The hash is of no known form.")


def nothing_like(cost: str, random: bytes) -> str:
    """A hash of this cost (``cost``) whose value was drawn, not computed; from 64 random bytes."""
    scheme, *rest = cost.split(" ")
    salt, value = random[:16], random[16:]
    if scheme == "argon2":
        variant, memory_kib, passes, lanes = rest
        return (
            f"argon2${variant}$v=19$m={memory_kib},t={passes},p={lanes}"
            f"${_plain(salt)}${_plain(value[:32])}"
        )
    if scheme == "bcrypt":
        drawn = "".join(_BCRYPT_ALPHABET[byte % 64] for byte in random[:52])
        return f"$2b${int(rest[0]):02d}${drawn[:21]}.{drawn[21:52]}"
    if scheme == "scrypt":
        n, r, p = rest
        return f"$scrypt$ln={int(n).bit_length() - 1},r={r},p={p}${_plain(salt)}${_plain(value)}"
    digest, rounds, size = rest
    drawn_value = b64encode((value * 3)[: int(size)]).decode()
    return f"pbkdf2_{digest}${rounds}${salt.hex()}${drawn_value}"


def _plain(data: bytes) -> str:
    return b64encode(data).rstrip(b"=").decode()


# --- the forms


def _argon2(match: re.Match[str]) -> Argon2:
    found = Argon2(
        match["text"], match["variant"], int(match["m"]), int(match["t"]), int(match["p"])
    )
    if found.lanes > MAX_ARGON2_LANES or found.memory_kib > MAX_ARGON2_KIB:
        raise _too_dear()
    if found.memory_kib * found.passes > MAX_ARGON2_KIB_PASSES:
        raise _too_dear()
    if found.passes < 1 or found.lanes < 1 or found.memory_kib < 8 * found.lanes:
        raise InvalidInput("The hash has parameters that argon2 does not allow.")
    _bytes(match["salt"], least=8, most=MAX_SALT_BYTES)
    _value(match["value"])
    return found


def _bcrypt(match: re.Match[str]) -> Bcrypt:
    return _bcrypt_of("password", match["text"], int(match["rounds"]), match[0])


def _bcrypt_sha256_django(match: re.Match[str]) -> Bcrypt:
    return _bcrypt_of("sha256", match["text"], int(match["rounds"]), match[0])


def _bcrypt_sha256_passlib(match: re.Match[str]) -> Bcrypt:
    rounds = int(match["rounds"])
    text = f"$2b${rounds:02d}${match['salt']}{match['value']}"
    return _bcrypt_of("hmac", text, rounds, match[0])


def _bcrypt_of(of: str, text: str, rounds: int, kept: str) -> Bcrypt:
    if rounds > MAX_BCRYPT_COST:
        raise _too_dear()
    if rounds < 4:
        raise InvalidInput("The hash has parameters that bcrypt does not allow.")
    # bits beyond those of the salt and of the value, which some have not written as 0
    salt_end, end = (
        _BCRYPT_ALPHABET[_BCRYPT_ALPHABET.index(text[place]) & bits]
        for place, bits in ((_LAST_OF_SALT, 0b110000), (-1, 0b111100))
    )
    text = text[:_LAST_OF_SALT] + salt_end + text[_LAST_OF_SALT + 1 : -1] + end
    return Bcrypt(text, rounds, of, kept)


def _scrypt_passlib(match: re.Match[str]) -> Scrypt:
    salt = _bytes(match["salt"], least=0, most=MAX_SALT_BYTES)
    return _scrypt(1 << int(match["ln"]), match, salt)


def _scrypt_django(match: re.Match[str]) -> Scrypt:
    return _scrypt(int(match["n"]), match, match["salt"].encode())


def _scrypt(n: int, match: re.Match[str], salt: bytes) -> Scrypt:
    found = Scrypt(n, int(match["r"]), int(match["p"]), salt, _value(match["value"]), match[0])
    if found.memory > 2 * MAX_SCRYPT_BYTES or n * found.r * 128 > MAX_SCRYPT_BYTES:
        raise _too_dear()
    if n * found.r * found.p > MAX_SCRYPT_WORK:
        raise _too_dear()
    if n < 2 or n & (n - 1) or found.r < 1 or found.p < 1:
        raise InvalidInput("The hash has parameters that scrypt does not allow.")
    return found


def _pbkdf2_passlib(match: re.Match[str]) -> Pbkdf2:
    salt = _bytes(match["salt"], least=0, most=MAX_SALT_BYTES)
    return _pbkdf2(match["digest"] or "sha1", match, salt)


def _pbkdf2_django(match: re.Match[str]) -> Pbkdf2:
    return _pbkdf2(match["digest"], match, match["salt"].encode())


def _pbkdf2(digest: str, match: re.Match[str], salt: bytes) -> Pbkdf2:
    rounds = int(match["rounds"])
    if rounds > MAX_PBKDF2_ROUNDS:
        raise _too_dear()
    if rounds < 1:
        raise InvalidInput("The hash has parameters that PBKDF2 does not allow.")
    return Pbkdf2(digest, rounds, salt, _value(match["value"]), match[0])


def _too_dear() -> InvalidInput:
    return InvalidInput("The hash costs more time or memory than a login may take.")


def _value(text: str) -> bytes:
    return _bytes(text, least=LEAST_VALUE_BYTES, most=MOST_VALUE_BYTES)


def _bytes(text: str, *, least: int, most: int) -> bytes:
    """What this base64 says, with padding or without; passlib writes ``.`` for ``+``."""
    plain = text.replace(".", "+").rstrip("=")
    try:
        found = b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        raise InvalidInput("The hash is of no known form.") from None
    if not least <= len(found) <= most:
        raise InvalidInput("The hash or its salt is too short or too long.")
    return found


_B64 = r"[A-Za-z0-9+/.]+={0,2}"
_N = r"[0-9]{1,9}"
_ARGON2 = (
    rf"(?P<text>\$(?P<variant>argon2(?:id|i|d))\$v=19\$m=(?P<m>{_N}),t=(?P<t>{_N}),p=(?P<p>{_N})"
    rf"\$(?P<salt>[A-Za-z0-9+/]+)\$(?P<value>[A-Za-z0-9+/]+))"
)
_BCRYPT = r"(?P<text>\$2[aby]\$(?P<rounds>[0-9]{2})\$[./A-Za-z0-9]{53})"
_FORMS = (
    (re.compile(rf"(?:argon2)?{_ARGON2}"), _argon2),
    (re.compile(rf"(?:bcrypt\$)?{_BCRYPT}"), _bcrypt),
    (re.compile(rf"bcrypt_sha256\${_BCRYPT}"), _bcrypt_sha256_django),
    (
        re.compile(
            r"\$bcrypt-sha256\$v=2,t=2b,r=(?P<rounds>[0-9]{1,2})"
            r"\$(?P<salt>[./A-Za-z0-9]{22})\$(?P<value>[./A-Za-z0-9]{31})"
        ),
        _bcrypt_sha256_passlib,
    ),
    (
        re.compile(
            rf"\$scrypt\$ln=(?P<ln>[0-9]{{1,2}}),r=(?P<r>{_N}),p=(?P<p>{_N})"
            rf"\$(?P<salt>{_B64}|)\$(?P<value>{_B64})"
        ),
        _scrypt_passlib,
    ),
    (
        re.compile(
            rf"scrypt\$(?P<n>{_N})\$(?P<salt>[^$]{{1,256}})\$(?P<r>{_N})\$(?P<p>{_N})"
            rf"\$(?P<value>{_B64})"
        ),
        _scrypt_django,
    ),
    (
        re.compile(
            rf"\$pbkdf2(?:-(?P<digest>sha256|sha512))?\$(?P<rounds>{_N})"
            rf"\$(?P<salt>{_B64}|)\$(?P<value>{_B64})"
        ),
        _pbkdf2_passlib,
    ),
    (
        re.compile(
            rf"pbkdf2_(?P<digest>sha1|sha256|sha512)\$(?P<rounds>{_N})"
            rf"\$(?P<salt>[^$]{{1,256}})\$(?P<value>{_B64})"
        ),
        _pbkdf2_django,
    ),
)
