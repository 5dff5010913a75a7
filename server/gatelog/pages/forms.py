"""What a form sends, and the same page again with what is wrong beside its field.

Rules:

- A form comes from a page of this origin. What another origin makes a browser send is refused even
  without a session: it could sign somebody in as somebody else (login CSRF).
- Fields are text, each is known and comes once, and all of it is bounded as JSON bodies are.
- What is wrong is said as the API says it: same status, same code, same words. A refusal leaves the
  same line in the log.
- What was written is there again, but no password and no code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from gatelog.errors import (
    BadRequest,
    FactorLoginRequired,
    GatelogError,
    InvalidInput,
    NotAuthenticated,
    OperatorError,
    RecentLoginRequired,
    UnsupportedMediaType,
)
from gatelog.http.answers import keep_private
from gatelog.http.bodies import MAX_BODY_BYTES, read_bytes
from gatelog.http.credentials import refuse_other_origin
from gatelog.http.guard import SESSION
from gatelog.http.refusals import refusals_here
from gatelog.pages.layout import show
from gatelog.text import is_storable

FORM_TYPE: Final = "application/x-www-form-urlencoded"
MAX_FIELDS = 100
# Of a problem's code, the fields to which it belongs; the first that the form has is marked.
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "login_taken": ("login",),
    "weak_password": ("new_password", "password"),
    "wrong_code": ("code",),
    "wrong_factor": ("code",),
    "no_such_role": ("roles",),
}
# These lead to the page to sign in (``pages.door``), and are no fault of what was written.
_ELSEWHERE: Final = (RecentLoginRequired, FactorLoginRequired)


class Form:
    """What was written, and what is wrong with it, by the names of the fields.

    ``fault``: what is wrong with the whole. A form that nobody has sent is empty.
    """

    def __init__(
        self,
        values: Mapping[str, str] | None = None,
        *,
        lists: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._values = dict(values or {})
        self._lists = dict(lists or {})
        self.faults: dict[str, str] = {}
        self.fault: str | None = None

    def __getitem__(self, name: str) -> str:
        """What stands in this field; nothing, if it did not come."""
        return self._values.get(name, "")

    def all(self, name: str) -> tuple[str, ...]:
        """What was chosen of a field of which several may be."""
        return self._lists.get(name, ())

    @property
    def names(self) -> frozenset[str]:
        """The fields that it has."""
        return frozenset(self._values) | frozenset(self._lists)

    @property
    def is_wrong(self) -> bool:
        return bool(self.faults) or self.fault is not None

    def check(self, name: str, rule: Callable[[str], object]) -> None:
        """Hold what stands in this field to a rule; what the rule says is kept beside it."""
        try:
            rule(self[name])
        except InvalidInput as error:
            self.faults.setdefault(name, told(error))

    def note(self, error: GatelogError, *, at: str | None = None) -> None:
        """Keep what an error says: beside the field, if it is about one."""
        names = (at,) if at is not None else FIELDS.get(error.code, ())
        field = next((name for name in names if name in self.names), None)
        if field is None:
            self.fault = told(error)
        else:
            self.faults[field] = told(error)


def told(error: GatelogError) -> str:
    """What a problem document says, as a sentence or two; of a failure of ours its title alone."""
    title = f"{error.title}."
    if error.status == 429 and error.retry_after_s is not None:
        return f"{title} It is worth it in {error.retry_after_s} s."
    if error.status >= 500 or not error.detail or error.detail == error.title:
        return title
    detail = error.detail if error.detail.endswith(".") else f"{error.detail}."
    return detail if isinstance(error, InvalidInput) else f"{title} {detail}"


async def read_form(
    request: web.Request, *names: str, lists: Iterable[str] = (), limit: int = MAX_BODY_BYTES
) -> Form:
    """The form with these fields, of at most ``limit`` bytes; of those in ``lists`` several may be
    chosen.

    Raises CrossSiteRequest, UnsupportedMediaType, BodyTooLarge, RequestTimedOut, BadRequest, and
    InvalidInput for fields that the form does not have.
    """
    refuse_other_origin(request)
    several = frozenset(lists)
    if request.content_type != FORM_TYPE and (request.body_exists or names):
        raise UnsupportedMediaType("A form must be application/x-www-form-urlencoded.")
    try:
        text = (await read_bytes(request, limit)).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise BadRequest("The form is not well-formed.") from error
    values: dict[str, str] = {}
    chosen: dict[str, tuple[str, ...]] = {name: () for name in several}
    for name, value in pairs:
        if not is_storable(value) or name in values or (name not in names and name not in several):
            raise InvalidInput("The form has a field that does not belong there.")
        if name in several:
            chosen[name] += (value,)
        else:
            values[name] = value
    return Form(dict.fromkeys(names, "") | values, lists=chosen)


def again(
    request: web.Request,
    template: str,
    form: Form,
    error: GatelogError | None = None,
    *,
    at: str | None = None,
    **context: Any,
) -> web.Response:
    """The page of the form once more, with what is wrong with it.

    ``error``: what the use case raised; ``at``: the field that it is about, where its code does not
    tell. Without one, the form knows already. Raises the error again where it is not about what was
    written: where it takes another login, and what only an operator can mend.
    """
    status = InvalidInput.status
    if error is not None:
        if isinstance(error, (*_ELSEWHERE, OperatorError)) or type(error) is NotAuthenticated:
            raise error
        refusals_here.note(request, error, request.get(SESSION))
        form.note(error, at=at)
        status = error.status
    response = show(request, template, status=status, form=form, **context)
    if error is not None and error.retry_after_s is not None:
        response.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s)
    return response


def onward(location: str) -> web.Response:
    """The answer to a form that did what it should: to this page, by GET (RFC 9110, 15.4.4)."""
    response = web.Response(status=303, headers={hdrs.LOCATION: location})
    keep_private(response)
    return response
