"""What must hold for a composition before it can be made live, and what is said where it does not.

A refusal says where (which endpoint, which action, which step) and why, in one sentence. Rules:

- An endpoint triggers one action, and an action has one endpoint as its trigger.
- A path is nobody else's: not the product's, not the hosted application's, not another endpoint's.
  But for an endpoint that says what the product itself does there (``stands_for_own``).
- Each step needs somebody who is logged in, or nobody, or does not care, and leaves the request in
  one of these states; the order is checked by going through it (``_Course``). What answers by
  itself is the last step.
- What a step refers to (fields, parameters, roles, upstreams, handlers) is there.
- Nothing in it could be recorded, answered or sent on that the endpoint has not declared: a
  password is read by the steps that need it, and has no name for any other.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Literal

import msgspec

from gatelog.composer.rules.composition import (
    MAX_RECORD_BYTES,
    Action,
    AnyStep,
    Call,
    ChangePassword,
    Composition,
    CurrentUser,
    EndAll,
    EndOthers,
    Endpoint,
    Field,
    Handler,
    ListSessions,
    Login,
    Logout,
    Record,
    Register,
    Respond,
    own_event,
    stands_for_own,
)
from gatelog.composer.rules.paths import MAX_VALUE_LENGTH, Crossings, Pattern, parse_path
from gatelog.composer.rules.templates import Reference, Template, unknown
from gatelog.errors import InvalidInput

MAX_FAULTS = 100
RESERVED_FIELDS = ("login", "password", "current_password", "new_password")
WITH_BODY = ("POST", "PUT", "PATCH")
_RECORD_OVERHEAD = 64  # bytes for a name, a number, and what stands around them


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a part of a composition.

    ``what`` and ``name``: which endpoint or action; ``step``: which step of it, from 1; ``at``:
    which of its own fields, where it is about one.
    """

    what: Literal["endpoint", "action"]
    name: str
    says: str
    step: int | None = None
    at: Literal["name", "description", "path", "roles", "fields", "trigger"] | None = None

    def __str__(self) -> str:
        step = f", step {self.step}" if self.step is not None else ""
        return f"{self.what} {self.name!r}{step}: {self.says}"


class Taken(msgspec.Struct, frozen=True):
    """A path that something else answers, and who that is."""

    pattern: Pattern
    path: str
    by: str = "the product itself"


class Surroundings(msgspec.Struct, frozen=True):
    """What a composition stands in: paths that are taken, and names that there are."""

    taken: tuple[Taken, ...] = ()
    roles: frozenset[str] = frozenset()
    upstreams: frozenset[str] = frozenset()
    handlers: frozenset[str] = frozenset()


def check(composition: Composition, around: Surroundings) -> list[Fault]:
    """What is wrong with it; nothing, if it can be made live. At most ``MAX_FAULTS``."""
    faults: list[Fault] = []
    for fault in _faults(composition, around):
        faults.append(fault)
        if len(faults) == MAX_FAULTS:
            break
    return faults


def _faults(composition: Composition, around: Surroundings) -> Iterator[Fault]:
    yield from _names(composition)
    yield from _paths(composition, around.taken)
    triggers = Counter(action.trigger for action in composition.actions)
    endpoints = {endpoint.name: endpoint for endpoint in composition.endpoints}
    for endpoint in composition.endpoints:
        yield from _endpoint(endpoint, around)
        if endpoint.name not in triggers:
            yield Fault("endpoint", endpoint.name, "It triggers no action: nothing would happen.")
    for action in composition.actions:
        found = endpoints.get(action.trigger)
        if found is None:
            yield Fault("action", action.name, _no_trigger(action), at="trigger")
            continue
        if triggers[action.trigger] > 1:
            says = f"The endpoint {action.trigger!r} triggers more than one action."
            yield Fault("action", action.name, says, at="trigger")
        for step, says in _Course(found, action, around).faults():
            yield Fault("action", action.name, says, step)


def _no_trigger(action: Action) -> str:
    if not action.trigger:
        return "It has no trigger: choose an endpoint."
    return f"Its trigger is {action.trigger!r}, and there is no such endpoint."


# --- names and paths


def _names(composition: Composition) -> Iterator[Fault]:
    what: Literal["endpoint", "action"]
    for what, parts in (("endpoint", composition.endpoints), ("action", composition.actions)):
        seen: set[str] = set()
        for part in parts:
            if not _is_name(part.name):
                says = "A name is printable text, without space at its ends."
                yield Fault(what, part.name, says, at="name")
            if not _is_text(part.description):
                says = "The description has characters that are no text."
                yield Fault(what, part.name, says, at="description")
            if part.name in seen:
                yield Fault(what, part.name, f"There are two {what}s of this name.", at="name")
            seen.add(part.name)


def _is_name(text: str) -> bool:
    return bool(text) and text == text.strip() and all(map(_is_visible, text))


def _is_visible(character: str) -> bool:
    """Whether it takes part in what is read: no control, no format character, nothing unassigned.

    What turns the direction of text or cannot be seen would let two names look alike.
    """
    return unicodedata.category(character)[0] != "C"


def _is_text(text: str) -> bool:
    return all(_is_visible(character) or character == "\n" for character in text)


def _paths(composition: Composition, taken: Iterable[Taken]) -> Iterator[Fault]:
    others: Crossings[Taken] = Crossings()
    for each in taken:
        others.add(each.pattern, each)
    before: Crossings[Endpoint] = Crossings()
    own = [endpoint for endpoint, action in composition.pairs() if stands_for_own(endpoint, action)]
    for endpoint in composition.endpoints:
        try:
            pattern = parse_path(endpoint.path)
        except InvalidInput as error:
            says = f"Its path cannot be used: {error}."
            yield Fault("endpoint", endpoint.name, says, at="path")
            continue
        owner = next(others.meeting(pattern), None)
        if owner is not None and endpoint not in own:
            yield _taken(endpoint, owner)
        for other in before.meeting(pattern):
            if other.path != endpoint.path:
                says = f"{endpoint.path} meets {other.path} of {other.name!r}: a request could be"
                yield Fault("endpoint", endpoint.name, f"{says} for either.", at="path")
                break
            if other.method == endpoint.method:
                says = f"{endpoint.method} {endpoint.path} is the endpoint {other.name!r} already."
                yield Fault("endpoint", endpoint.name, says, at="path")
                break
        before.add(pattern, endpoint)


def _taken(endpoint: Endpoint, owner: Taken) -> Fault:
    says = f"{endpoint.path} meets {owner.path}, which {owner.by} answers."
    own = own_event(endpoint)
    if own is None:
        return Fault("endpoint", endpoint.name, f"{says} Choose another path.", at="path")
    says += f" It may stand for that with {own.TITLE.lower()} as the one event of its action."
    return Fault("endpoint", endpoint.name, says)


# --- one endpoint


def _endpoint(endpoint: Endpoint, around: Surroundings) -> Iterator[Fault]:
    def fault(says: str, at: Literal["roles", "fields"]) -> Fault:
        return Fault("endpoint", endpoint.name, says, at=at)

    if endpoint.access == "roles" and not endpoint.roles:
        yield fault("It is for roles, and none is named.", "roles")
    if endpoint.access != "roles" and endpoint.roles:
        yield fault("Roles are named, and it is not for roles.", "roles")
    for role in endpoint.roles:
        if role not in around.roles:
            yield fault(f"There is no role {role!r}.", "roles")
    names = Counter(field.name for field in endpoint.fields)
    for name, count in names.items():
        if count > 1:
            yield fault(f"The field {name} is declared twice.", "fields")
        if name in RESERVED_FIELDS:
            says = f"The field {name} is one of login's own: it is read, and never handed on."
            yield fault(says, "fields")
    if endpoint.fields and endpoint.method not in WITH_BODY:
        says = f"It declares fields of a body, and {endpoint.method} has none: use POST."
        yield fault(says, "fields")


# --- one action


class _State(Enum):
    """What is known of who asks, at a point of an action."""

    UNKNOWN = "unknown"  # the endpoint is public: somebody or nobody
    IN = "logged in"
    OUT = "logged out"


class _Course:
    """Goes through the steps of an action, as a request would."""

    def __init__(self, endpoint: Endpoint, action: Action, around: Surroundings) -> None:
        self._endpoint = endpoint
        self._action = action
        self._around = around
        public = endpoint.access == "public"
        self._state = _State.UNKNOWN if public else _State.IN
        self._why = 0  # the step that has led to the state; 0: the endpoint's access
        self._fields = {field.name: field for field in endpoint.fields}
        try:
            self._parameters = parse_path(endpoint.path).names
        except InvalidInput:
            self._parameters = ()

    def faults(self) -> Iterator[tuple[int | None, str]]:
        """What is wrong, each with its step."""
        steps = self._action.steps
        if not steps:
            yield None, "It has no event: add one."
        for number, step in enumerate(steps, start=1):
            for says in self._step(step):
                yield number, says
            if isinstance(step, Respond | Call | Handler) and number < len(steps):
                after = steps[number].TITLE.lower()
                yield number, f"{step.TITLE} answers, so nothing comes after it: {after} would."
            self._leave(number, step)

    def _step(self, step: AnyStep) -> Iterator[str]:
        if step.TAKES and self._endpoint.method not in WITH_BODY:
            fields = " and ".join(step.TAKES)
            yield (
                f"{step.TITLE} reads {fields} from the body, and {self._endpoint.method} has"
                " none: use POST."
            )
        if says := self._order(step):
            yield says
        match step:
            case Login() if "token" in self._fields:
                yield "Login reads token from the body by itself: rename the declared field."
            case Record():
                yield from self._record(step)
            case Respond():
                yield from self._respond(step)
            case Call():
                yield from self._call(step)
            case Handler() if step.name not in self._around.handlers:
                yield f"The hosted application has registered no handler {step.name!r}."

    def _order(self, step: AnyStep) -> str | None:
        """Why this step cannot come here, if it cannot."""
        if isinstance(step, Register | Login):
            if self._state is _State.IN:
                return f"{step.TITLE} is for who is not logged in, and {self._because()}."
            return None
        if isinstance(step, Logout) and self._state is _State.OUT:
            return f"{step.TITLE} has nothing to end: {self._because()}."
        if self._needs_session(step) and self._state is not _State.IN:
            return f"{step.TITLE} needs somebody who is logged in, and {self._because()}."
        return None

    def _needs_session(self, step: AnyStep) -> bool:
        if isinstance(step, Respond):
            return any(each.place == "session" for each in _references(step))
        needing = (EndOthers, EndAll, ChangePassword, CurrentUser, ListSessions, Record)
        return isinstance(step, needing)

    def _because(self) -> str:
        """Why the state is what it is."""
        if self._why:
            earlier = f"step {self._why} ({self._action.steps[self._why - 1].TITLE.lower()})"
            did = "has logged them in" if self._state is _State.IN else "has ended the session"
            return f"{earlier} {did}"
        if self._state is _State.IN:
            return "the endpoint lets nobody else in"
        return "the endpoint is public"

    def _leave(self, number: int, step: AnyStep) -> None:
        if isinstance(step, Logout | EndAll):
            self._state, self._why = _State.OUT, number
        elif isinstance(step, Login):
            self._state, self._why = _State.IN, number

    # what a step refers to

    def _record(self, step: Record) -> Iterator[str]:
        size = 0
        for name, count in Counter(step.fields).items():
            field = self._fields.get(name)
            if field is None and name not in self._parameters:
                yield f"There is no field {name} in the body or the path to record."
            if field is not None and name in self._parameters:
                yield f"{name} is a field of the body and of the path: rename one."
            if count > 1:
                yield f"The field {name} is recorded twice."
            size += recorded_bytes(field)
        if size > MAX_RECORD_BYTES:
            yield f"It may record {size} bytes, which is more than {MAX_RECORD_BYTES}."

    def _respond(self, step: Respond) -> Iterator[str]:
        if step.status in {204, 205, 304} or 300 <= step.status < 400:
            yield f"An answer with JSON cannot have the status {step.status}."
        try:
            template = Template(step.json)
        except InvalidInput as error:
            yield f"Its JSON cannot be used: {error}."
            return
        for each in unknown(template, self._parameters, self._fields):
            yield f"{each} refers to what this endpoint does not have."

    def _call(self, step: Call) -> Iterator[str]:
        if step.upstream not in self._around.upstreams:
            yield f"There is no upstream {step.upstream!r} in GATELOG_UPSTREAMS."
        if step.body and self._endpoint.method not in WITH_BODY:
            yield f"It sends a body on, and {self._endpoint.method} has none."
        if step.path == "/":
            return
        try:
            names = parse_path(step.path).names
        except InvalidInput as error:
            yield f"Its path cannot be used: {error}."
            return
        for name in names:
            if name not in self._parameters:
                yield f"{{{name}}} is no parameter of the endpoint's path."


def _references(step: Respond) -> tuple[Reference, ...]:
    try:
        return Template(step.json).references
    except InvalidInput:
        return ()  # said elsewhere


def recorded_bytes(field: Field | None) -> int:
    """How many bytes a field takes at most in an event; None: a parameter of the path."""
    if field is None:
        return 4 * MAX_VALUE_LENGTH + _RECORD_OVERHEAD
    return (4 * field.max_length if field.kind == "text" else 0) + _RECORD_OVERHEAD
