"""The configuration: one frozen object, read from ``GATELOG_*`` variables once, at the start.

Rules: every variable is documented by its field; an unknown or malformed one is an error that
names it; a secret may come from a file (``NAME_FILE``) and is never printed. Every limit of the
service has its name and its default here.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from gatelog.errors import ConfigError
from gatelog.master_keys import parse_master_keys
from gatelog.settings import (
    ASSURANCE,
    DAY_S,
    ROLES,
    Count,
    IdleSeconds,
    Lifetimes,
    Network,
    RoleSettings,
    Seconds,
    Text,
    check_public_url,
    check_sender,
    check_url,
    parse_hosts,
    parse_login_url,
    parse_networks,
    parse_origins,
    parse_roles,
    parse_smtp_url,
    parse_upstreams,
    parse_words,
)

PREFIX = "GATELOG_"
MIN_PASSWORD_LENGTH = 8  # whatever is configured (NIST SP 800-63B-4, section 3.1.1.2)
MASK = "********"
_COMMENTED = re.compile(r"^    # (.+)\n    (\w+):", re.MULTILINE)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, with its default: the fields are those that ``gatelog config`` prints.

    The comment line above a field is its documentation.
    """

    # Address to listen on.
    host: Text = "127.0.0.1"
    # Port to listen on; 0 takes a free one.
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    # Worker processes; 0 means one per core.
    workers: Annotated[int, Meta(ge=0, le=1024)] = 0
    # Directory for the embedded database, secrets and run-time files.
    data_dir: Text = "var"
    # PostgreSQL 15 or later, as a URL for the application; empty: the embedded database.
    database_url: str = ""
    # The same database for migrations, as its owner; empty: the same URL as the application.
    owner_database_url: str = ""
    # An application to serve behind the check, its routes or its factory: package.module:name.
    app: str = ""
    # The path under which it answers.
    mount: Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/api"
    # Who may register over HTTP: everyone (open), nobody (closed), only the first user (first).
    registration: Literal["open", "closed", "first"] = "first"
    # Origins whose pages may change things here, beside our own: https://app.example, with commas.
    trusted_origins: str = ""
    # Origins whose pages may also read the answers (CORS), with credentials; exact, with commas.
    cors_origins: str = ""
    # Where browsers reach this service (https://gate.example): passkeys are for it; empty: none.
    public_url: Annotated[str, Meta(max_length=255)] = ""
    # The page to which /v1/auth sends a browser without a session (https://login.example/), if any.
    login_url: str = ""
    # Hosts that it may come back to, beside that page's own: app.example, with commas.
    return_hosts: str = ""
    # Who signs identities for APIs, as their iss (https://app.example); empty: none are signed.
    identity_issuer: Annotated[str, Meta(pattern=r"^[!#-\[\]-~]{0,255}$")] = ""
    # How long a signed identity is good, also after a logout, in seconds.
    identity_ttl_s: Annotated[int, Meta(ge=5, le=60)] = 30
    # Bounds by NIST SP 800-63B: aal1 (30 days), aal2 (24 hours, unused 1), aal3 (12 hours, 15 min).
    assurance: Literal["none", "aal1", "aal2", "aal3"] = "none"
    # How long a session lives at most, in seconds; the default is 30 days, or the assurance.
    session_lifetime_s: Seconds = 30 * DAY_S
    # How long it lives unused, in seconds; 0: it need not be used. The default: as with lifetimes.
    session_idle_s: IdleSeconds = 7 * DAY_S
    # Own roles, and what holds for a role, as JSON: {"editor": {}, "admin": {"factors": true}}.
    roles: Annotated[str, Meta(max_length=65_536)] = ""
    # How old a login may be that ends one's other sessions, in seconds; 0: as old as it likes.
    recent_login_s: Annotated[float, Meta(ge=0, le=86_400 * 400)] = 900
    # Active sessions of one user.
    max_sessions_per_user: Annotated[int, Meta(ge=1, le=1000)] = 20
    # A login beyond them ends the oldest session (supersede), or is refused with 409 (refuse).
    too_many_sessions: Literal["supersede", "refuse"] = "supersede"
    # Active tokens for machines of one user; beyond them none is created.
    max_tokens_per_user: Annotated[int, Meta(ge=1, le=1000)] = 100
    # Shortest password accepted, in characters.
    password_min_length: Annotated[int, Meta(ge=MIN_PASSWORD_LENGTH, le=64)] = 15
    # Words that a password may not be made of, with commas: names of your company and products.
    password_words: Annotated[str, Meta(max_length=4096)] = ""
    # Failed logins of an address at an account, or of a known device, before delays begin.
    login_tries: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    # Wrong passwords in a row, after which the password is unusable until an admin unlocks it.
    password_failures: Annotated[int, Meta(ge=20, le=100)] = 100
    # Registrations over HTTP from one address in an hour before delays begin.
    registration_tries: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    # Mail server: smtps://user:password@host, smtp+starttls://…, smtp://… (no TLS); empty: no mail.
    smtp_url: str = ""
    # Who mails are from, like Gate <gate@example.com>.
    mail_from: Annotated[str, Meta(max_length=320)] = ""
    # The page that links in mails open (https://app.example/welcome); the token is its fragment.
    link_url: Annotated[str, Meta(max_length=1024)] = ""
    # Folder with texts of mails in place of the package's: NAME.txt and NAME.html.
    mail_templates: str = ""
    # Links that may be asked for at an account, and from an address, in a day before delays begin.
    recovery_tries: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    # Argon2id memory, in KiB.
    argon2_memory_kib: Annotated[int, Meta(ge=8, le=4_194_304)] = 19_456
    # Argon2id passes.
    argon2_time_cost: Annotated[int, Meta(ge=1, le=100)] = 2
    # Argon2id lanes; more than one takes the event loop's core.
    argon2_parallelism: Annotated[int, Meta(ge=1, le=64)] = 1
    # Threads that hash passwords in each worker; 0 means cores - 1, at least 1.
    hashing_threads: Annotated[int, Meta(ge=0, le=256)] = 0
    # Logins that may wait for hashing in each worker, and as many of known devices; beyond 503.
    hashing_queue: Count = 64
    # How long a request may wait for the database before it is answered 503, in seconds.
    database_timeout_s: Seconds = 5
    # Pooled database connections per worker, beside the appender's, lookup's and barrier's own.
    database_pool: Annotated[int, Meta(ge=1, le=100)] = 4
    # Pooled database connections per worker for who reads the log, and as many for as-of.
    audit_pool: Annotated[int, Meta(ge=1, le=100)] = 4
    # Commands in one commit.
    append_batch: Annotated[int, Meta(ge=1, le=256)] = 256
    # Commands that may wait for a commit in each worker; beyond them 503.
    append_queue: Count = 4096
    # Session checks that may wait for the database in each worker; beyond them 503.
    lookup_queue: Count = 10_000
    # Sessions are checked in the replica in memory (replica) or always on the primary (strict).
    check: Literal["replica", "strict"] = "replica"
    # How long a replica may answer without news of the log; the same on all hosts, in seconds.
    lease_ttl_s: Annotated[float, Meta(ge=0.1, le=60)] = 3
    # Directory for the replica, best on memory; empty: one below /dev/shm, else the data directory.
    replica_dir: str = ""
    # Largest size of the replica, in MiB; memory is taken as it is needed.
    replica_max_mib: Annotated[int, Meta(ge=1, le=16_777_216)] = 16_384
    # How often the projector looks for news that nobody told, beside its renewals; in seconds.
    projector_poll_s: Annotated[float, Meta(ge=0.001, le=60)] = 5
    # Whether this service seals the log (on), or a sealer elsewhere does (off).
    sealer: Literal["on", "off"] = "on"
    # File that keeps the last signed checkpoint; empty: one in the data directory.
    checkpoint_file: str = ""
    # Name of the log in its checkpoints, like example.com/log; empty: the one that its key has.
    log_origin: str = ""
    # Key that signs checkpoints, PRIVATE+KEY+name+…; empty: one in the data directory, made once.
    log_signing_key: str = ""
    # How often the sealer signs while there is something new, in seconds.
    seal_interval_s: Annotated[float, Meta(ge=0.01, le=1)] = 0.5
    # Streams of events that a worker serves at a time; beyond them 503.
    streams: Count = 500
    # Events that may wait for the reader of a stream; beyond them it is cut off, and can resume.
    stream_buffer: Count = 10_000
    # How often a stream shows that it is alive when nothing happens, in seconds.
    stream_heartbeat_s: Annotated[float, Meta(ge=0.1, le=3600)] = 15
    # Exports of the log that a worker makes at a time; beyond them 503.
    exports: Annotated[int, Meta(ge=1, le=100)] = 2
    # Connections that a worker has at a time; beyond them those go that wait for a request.
    connections: Count = 16_384
    # How long a client may take for the head of a request, in seconds.
    header_timeout_s: Seconds = 20
    # How long the body of a request may make no progress, less than 500 bytes a second; in seconds.
    body_timeout_s: Seconds = 20
    # How long a client may take nothing of what it is sent, in seconds.
    send_timeout_s: Seconds = 30
    # How long a stop waits for requests in flight, in seconds.
    shutdown_timeout_s: Seconds = 10
    # Proxies in front, as networks (10.0.0.0/8,fd00::/8); their X-Forwarded-For is believed.
    trusted_proxies: Annotated[str, Meta(max_length=4096)] = ""
    # The key that wraps all other keys, 32 bytes in base64; empty: a file in the data directory.
    master_key: str = ""
    # Days after which nobody can read who tried to log in under a name that nobody has.
    failed_login_retention_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    # Who may read /metrics: this machine (local), not through proxies (direct), all (open) or off.
    metrics: Literal["local", "direct", "open", "off"] = "local"
    # How long browsers keep to TLS once they have come by it (RFC 6797), in seconds; 0: not told.
    hsts_s: Annotated[int, Meta(ge=0, le=126_144_000)] = 31_536_000
    # Whether the API's document (/openapi.json) and its page (/docs) are served, to everybody.
    docs: Literal["on", "off"] = "on"
    # Whether there are pages for people: to sign in, one's account, the console.
    pages: Literal["on", "off"] = "on"
    # Whether endpoints can be composed here, by administrators, and composed ones are served.
    composer: Literal["on", "off"] = "on"
    # Services that composed endpoints may call, as JSON: {"orders": "https://orders.internal/api"}.
    upstreams: Annotated[str, Meta(max_length=65_536)] = ""
    # Requests are logged (to standard error) when on.
    access_log: bool = False
    # Detail of the log on standard error.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # How a line of the log looks: for people (text), or a JSON object (json).
    log_format: Literal["text", "json"] = "text"

    @property
    def data_path(self) -> Path:
        """The data directory, as an absolute path."""
        return Path(self.data_dir).absolute()

    @property
    def checkpoint_path(self) -> Path:
        """The file that keeps the last signed checkpoint."""
        return Path(self.checkpoint_file or self.data_path / "checkpoint").absolute()

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """The networks of the proxies in front, whose X-Forwarded-For is believed."""
        return parse_networks(self.trusted_proxies)

    @property
    def origins_trusted(self) -> frozenset[str]:
        """The origins whose pages may change things: who may read may do that, too."""
        return parse_origins(self.trusted_origins) | self.origins_reading

    @property
    def origins_reading(self) -> frozenset[str]:
        """The origins whose pages may read the answers."""
        return parse_origins(self.cors_origins)

    @property
    def hosts_returned_to(self) -> frozenset[str]:
        """The hosts, each with its port unless that is the usual one, of return addresses."""
        return parse_hosts(self.return_hosts) | parse_login_url(self.login_url)

    @property
    def words_refused(self) -> frozenset[str]:
        """The operator's words that a password may not be made of, case-folded."""
        return parse_words(self.password_words)

    @property
    def role_settings(self) -> Mapping[str, RoleSettings]:
        """What holds for roles, by their names."""
        return parse_roles(self.roles)

    @property
    def role_names(self) -> tuple[str, ...]:
        """The roles that a user can be given."""
        return (*ROLES, *sorted(self.role_settings.keys() - set(ROLES)))

    def permits(self, roles: Iterable[str], permission: str) -> bool:
        """Whether one of these roles has this permission, or is called like it."""
        settings = self.role_settings
        return any(
            role == permission or (role in settings and permission in settings[role].permissions)
            for role in roles
        )

    def lifetimes_of(self, roles: Iterable[str]) -> Lifetimes:
        """How long the sessions of a user with these roles live: the least that any role says."""
        own = [found for role in roles if (found := self.role_settings.get(role)) is not None]
        lifetimes = [each.lifetime_s for each in own if each.lifetime_s is not None]
        idles = [each.idle_s for each in own if each.idle_s is not None]
        return Lifetimes(
            min(lifetimes, default=self.session_lifetime_s),
            min(idles, key=lambda idle_s: idle_s or math.inf, default=self.session_idle_s),
        )

    @property
    def guarded_roles(self) -> frozenset[str]:
        """The roles that a session has only where it began with a second factor, or a passkey."""
        return frozenset(role for role, each in self.role_settings.items() if each.factors)

    @property
    def shortest_idle_s(self) -> int | None:
        """The shortest idle time that any session may have, in seconds; None: none has one."""
        idles = [self.session_idle_s, *(each.idle_s for each in self.role_settings.values())]
        return min((idle_s for idle_s in idles if idle_s), default=None)

    @property
    def upstreams_listed(self) -> Mapping[str, str]:
        """The services that composed endpoints may call: their addresses, by name."""
        return parse_upstreams(self.upstreams)

    @property
    def mails(self) -> bool:
        """Whether mails are sent."""
        return bool(self.smtp_url)

    @property
    def worker_count(self) -> int:
        """Worker processes on this host."""
        return self.workers or os.cpu_count() or 1

    @property
    def embedded(self) -> bool:
        """Whether the service runs a database of its own."""
        return not self.database_url


class Setting(msgspec.Struct, frozen=True):
    """One setting as an operator sees it; a secret's value is masked."""

    variable: str
    value: str | int | float | bool
    default: str | int | float | bool
    meaning: str


URLS = frozenset({"database_url", "owner_database_url"})
SECRETS = URLS | {"log_signing_key", "master_key", "smtp_url"}


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def settings_of(config: Config) -> list[Setting]:
    """Every setting with its value; the meaning is the comment above its field."""
    meanings = dict(
        (name, meaning) for meaning, name in _COMMENTED.findall(inspect.getsource(Config))
    )
    found = []
    for field in msgspec.structs.fields(Config):
        value = getattr(config, field.name)
        shown = MASK if field.name in SECRETS and value else value
        found.append(Setting(variable(field.name), shown, field.default, meanings[field.name]))
    return found


def load_config(environ: Mapping[str, str]) -> Config:
    """The configuration in these variables, ``os.environ`` as a rule.

    Raises ConfigError for a variable that is unknown or not usable, and names it.
    """
    fields = {variable(name): name for name in Config.__struct_fields__}
    texts: dict[str, str] = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        field = fields.get(name) or fields.get(name.removesuffix("_FILE"))
        if field is None or (name not in fields and field not in SECRETS):
            raise ConfigError(name, "there is no such setting; see 'config'")
        if field in texts:
            raise ConfigError(name, f"is set together with {variable(field)}; set one of them")
        texts[field] = environ[name] if name in fields else _read_secret(name, environ[name])
    found = {field: _parse(field, text) for field, text in texts.items()}
    if found.get("smtp_url") and not (found.get("mail_from") and found.get("link_url")):
        needed = f"{variable('mail_from')} and {variable('link_url')}"
        raise ConfigError(variable("smtp_url"), f"mails need {needed}, too")
    bound = ASSURANCE.get(found.get("assurance", "none"))
    if bound is None:
        return Config(**found)
    preset = {"session_lifetime_s": bound.lifetime_s, "session_idle_s": bound.idle_s}
    if not bound.idle_s:
        del preset["session_idle_s"]
    config = Config(**(preset | found))
    _check_assurance(config, bound)
    return config


def _check_assurance(config: Config, bound: Lifetimes) -> None:
    """Raises ConfigError for lifetimes that the level of assurance does not allow."""
    too_long = f"is longer than {config.assurance} allows"
    usual = Lifetimes(config.session_lifetime_s, config.session_idle_s)
    if usual.exceeds(bound):
        name = "session_idle_s" if usual.lifetime_s <= bound.lifetime_s else "session_lifetime_s"
        raise ConfigError(variable(name), too_long)
    for role in config.role_settings:
        if config.lifetimes_of([role]).exceeds(bound):
            raise ConfigError(variable("roles"), f"what {role!r} has {too_long}")


def _read_secret(name: str, path: str) -> str:
    try:
        text = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(name, f"cannot read {path}: {reason}") from error
    if not text:
        raise ConfigError(name, f"{path} is empty")
    return text


_HINTS: dict[str, Any] = get_type_hints(Config, include_extras=True)
# What a type does not say of a setting's text; each raises ValueError.
_CHECKS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(URLS, check_url),
    "cors_origins": parse_origins,
    "login_url": parse_login_url,
    "mail_from": check_sender,
    "master_key": lambda text: text and parse_master_keys(text),
    "password_words": parse_words,
    "link_url": parse_login_url,
    "public_url": check_public_url,
    "return_hosts": parse_hosts,
    "roles": parse_roles,
    "smtp_url": lambda text: text and parse_smtp_url(text),
    "trusted_origins": parse_origins,
    "trusted_proxies": parse_networks,
    "upstreams": parse_upstreams,
}


def _parse(field: str, text: str) -> Any:
    try:
        if check := _CHECKS.get(field):
            check(text)
        return msgspec.convert(text, _HINTS[field], strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        shown = "the value" if field in SECRETS else repr(text)
        raise ConfigError(variable(field), f"{shown} is not usable: {error}") from error
