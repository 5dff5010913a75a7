"""A composition as data: endpoints, the actions that they trigger, and the steps of these.

It is what the composer edits, what a build makes live, and what a file of TOML holds. Rules:

- Everything in it has a bound. What its types do not say (an order that makes sense, a path that is
  free) is for ``gatelog.composer.rules.checking``.
- It says nothing that could be run: a template refers to values, and computes nothing.
- A step is an *event* of the palette: it is called what it does (``do``), and says by its type what
  it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from gatelog.errors import InvalidInput

MAX_ENDPOINTS = 1_000
MAX_STEPS = 8
MAX_FIELDS = 32
MAX_ROLES = 16
MAX_COMPOSITION_BYTES = 512 * 1024
MAX_PATH_LENGTH = 200
MAX_TEMPLATE_LENGTH = 4_096
MAX_TEXT_LENGTH = 2_000
MAX_RECORD_BYTES = 8 * 1024
MAX_RECORDS_PER_HOUR = 3_600

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Access = Literal["public", "logged_in", "roles"]
FieldKind = Literal["text", "integer", "boolean"]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Described = Annotated[str, Meta(max_length=1_000)]
Word = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}(?!\n)$")]
RecordType = Annotated[str, Meta(pattern=r"^app\.[a-z][a-z0-9_]{0,47}(?!\n)$")]


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A field of an endpoint's body.

    ``max_length``: of a text, in characters. ``personal``: where it is recorded, it is sealed under
    the user's key and goes with the user.
    """

    name: Word
    kind: FieldKind = "text"
    max_length: Annotated[int, Meta(ge=1, le=MAX_TEXT_LENGTH)] = 200
    required: bool = True
    personal: bool = False


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a request comes in: ``path`` has literal segments and ``{parameters}``.

    ``access``: everybody, who is logged in, or who has one of the ``roles``.
    """

    name: Name
    path: Annotated[str, Meta(min_length=1, max_length=MAX_PATH_LENGTH)]
    method: Method = "GET"
    description: Described = ""
    access: Access = "logged_in"
    roles: Annotated[tuple[str, ...], Meta(max_length=MAX_ROLES)] = ()
    fields: Annotated[tuple[Field, ...], Meta(max_length=MAX_FIELDS)] = ()


class Step(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="do",
):
    """An event of an action. ``TITLE``: what the palette calls it; ``ABOUT``: what it does.

    ``TAKES``: the fields that it reads of the body, beside those that the endpoint declares.
    ``CHANGES``: it changes something, whatever the method says; of a call or a handler, the method
    says it.
    """

    TITLE: ClassVar[str]
    ABOUT: ClassVar[str]
    TAKES: ClassVar[tuple[str, ...]] = ()
    CHANGES: ClassVar[bool] = True

    @property
    def do(self) -> str:
        return str(self.__struct_config__.tag)


class Register(Step, frozen=True, kw_only=True, tag="register"):
    TITLE = "Register"
    ABOUT = "makes a user of the body's login and password"
    TAKES = ("login", "password")


class Login(Step, frozen=True, kw_only=True, tag="login"):
    TITLE = "Login"
    ABOUT = "starts a session with the body's login and password"
    TAKES = ("login", "password")


class Logout(Step, frozen=True, kw_only=True, tag="logout"):
    TITLE = "Logout"
    ABOUT = "ends the session of the request, if there is one"


class EndOthers(Step, frozen=True, kw_only=True, tag="end_others"):
    TITLE = "End other sessions"
    ABOUT = "ends the user's other sessions"


class EndAll(Step, frozen=True, kw_only=True, tag="end_all"):
    """``tokens``: those of machines, too."""

    TITLE = "End all sessions"
    ABOUT = "ends all sessions of the user, this one too"

    tokens: bool = False


class ChangePassword(Step, frozen=True, kw_only=True, tag="change_password"):
    TITLE = "Change password"
    ABOUT = "replaces the password and every session of the user"
    TAKES = ("current_password", "new_password")


class CurrentUser(Step, frozen=True, kw_only=True, tag="current_user"):
    TITLE = "Current user"
    ABOUT = "answers who is asking"
    CHANGES = False


class ListSessions(Step, frozen=True, kw_only=True, tag="list_sessions"):
    TITLE = "List my sessions"
    ABOUT = "answers the user's active sessions"
    CHANGES = False


class Record(Step, frozen=True, kw_only=True, tag="record"):
    """``fields``: of the body or of the path, by name. ``per_hour``: of one user, at most."""

    TITLE = "Record"
    ABOUT = "appends an event of one's own to the log"

    type: RecordType
    fields: Annotated[tuple[Word, ...], Meta(max_length=MAX_FIELDS)] = ()
    per_hour: Annotated[int, Meta(ge=1, le=MAX_RECORDS_PER_HOUR)] = 60


class Respond(Step, frozen=True, kw_only=True, tag="respond"):
    """``json``: the answer as a text of JSON, in which ``{{session.…}}``, ``{{path.…}}`` and
    ``{{body.…}}`` stand for values; see ``gatelog.composer.rules.templates``."""

    TITLE = "Respond"
    ABOUT = "answers with a status and JSON"
    CHANGES = False

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    json: Annotated[str, Meta(max_length=MAX_TEMPLATE_LENGTH)] = "{}"


class Call(Step, frozen=True, kw_only=True, tag="call"):
    """``upstream``: a name of ``GATELOG_UPSTREAMS``; ``path``: below its address, with parameters
    of the endpoint's path. ``body``: the declared fields go along as JSON."""

    TITLE = "Call"
    ABOUT = "asks a listed upstream and answers with what it says"
    CHANGES = False

    upstream: Word
    path: Annotated[str, Meta(min_length=1, max_length=MAX_PATH_LENGTH)] = "/"
    body: bool = False


class Handler(Step, frozen=True, kw_only=True, tag="handler"):
    """``name``: the one that the hosted application has given it (``composable``)."""

    TITLE = "Handler"
    ABOUT = "calls a function that the hosted application has registered"
    CHANGES = False

    name: Word


AnyStep = (
    Register
    | Login
    | Logout
    | EndOthers
    | EndAll
    | ChangePassword
    | CurrentUser
    | ListSessions
    | Record
    | Respond
    | Call
    | Handler
)
PALETTE: tuple[type[Step], ...] = (
    Register,
    Login,
    Logout,
    EndOthers,
    EndAll,
    ChangePassword,
    CurrentUser,
    ListSessions,
    Record,
    Respond,
    Call,
    Handler,
)


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What happens when its ``trigger``, an endpoint by name, is asked: its events, in order."""

    name: Name
    trigger: str = ""
    description: Described = ""
    steps: Annotated[tuple[AnyStep, ...], Meta(max_length=MAX_STEPS)] = ()


class Composition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All endpoints and actions."""

    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=MAX_ENDPOINTS)] = ()
    actions: Annotated[tuple[Action, ...], Meta(max_length=MAX_ENDPOINTS)] = ()

    def action_of(self, endpoint: Endpoint) -> Action | None:
        """The action that an endpoint triggers, if there is one."""
        return next((each for each in self.actions if each.trigger == endpoint.name), None)

    def pairs(self) -> list[tuple[Endpoint, Action]]:
        """Each endpoint that has an action, with it."""
        by_trigger = {action.trigger: action for action in reversed(self.actions)}
        return [
            (endpoint, by_trigger[endpoint.name])
            for endpoint in self.endpoints
            if endpoint.name in by_trigger
        ]


EMPTY = Composition()

# What is the product's own, for everybody, and all that one event does.
OWN: Final[Mapping[tuple[str, str], AnyStep]] = {
    ("GET", "/v1/logout_user"): Logout(),
    ("POST", "/v1/logout_user"): Logout(),
}


def own_event(endpoint: Endpoint) -> AnyStep | None:
    """The one event of the product's own endpoint that this one may stand for, if there is one."""
    is_alike = endpoint.access == "public" and not endpoint.fields
    return OWN.get((endpoint.method, endpoint.path)) if is_alike else None


def stands_for_own(endpoint: Endpoint, action: Action) -> bool:
    """Whether this says what the product itself does there. The product answers, as before."""
    return action.steps == (own_event(endpoint),)


_decoder = msgspec.json.Decoder(Composition)
_encode = msgspec.json.Encoder().encode


def encode(composition: Composition) -> bytes:
    """The composition as it is stored: the same bytes for the same one.

    Raises InvalidInput when they are too many, or would not be read again: types hold only what
    comes from outside.
    """
    content = _encode(composition)
    if len(content) > MAX_COMPOSITION_BYTES:
        raise InvalidInput(f"A composition has at most {MAX_COMPOSITION_BYTES} bytes as JSON.")
    decode(content)
    return content


def decode(content: bytes) -> Composition:
    """The composition in these bytes. Raises InvalidInput, which says where it is not one."""
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"This is no composition: {error}.") from None


def convert(content: Any) -> Composition:
    """The composition in this tree of plain values. Raises InvalidInput."""
    try:
        return msgspec.convert(content, Composition, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"This is no composition: {error}.") from None
