"""The parameters of pages of users and of sessions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import hdrs, web
from msgspec import Meta
from multidict import MultiMapping

from gatelog.console.rules.paging import CURSOR_PATTERN, DEFAULT_PAGE, MAX_PAGE
from gatelog.errors import InvalidInput
from gatelog.text import is_storable

MAX_TEXT: Final = 256  # characters of what is looked for

LIMIT: Final = Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Of a page.")]
CURSOR: Final = Annotated[
    str,
    Meta(
        description="The page that a link leads to.",
        extra_json_schema={"pattern": CURSOR_PATTERN},
    ),
]


def only(query: MultiMapping[str], known: Collection[str]) -> None:
    """Raises InvalidInput for a parameter that is none of these, comes twice, or is no text."""
    for name in dict.fromkeys(query):
        if name not in known:
            raise InvalidInput(
                f"There is no parameter {name[:40]!a} here; there are {', '.join(known)}."
            )
        if len(query.getall(name)) > 1:
            raise InvalidInput(f"The parameter {name} is given twice.")
        if len(query[name]) > MAX_TEXT or not is_storable(query[name]):
            raise InvalidInput(f"The parameter {name} is too long, or no text.")


def limit_of(query: MultiMapping[str]) -> int:
    """How many a page has. Raises InvalidInput."""
    text = query.get("limit", str(DEFAULT_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_PAGE):
        raise InvalidInput(f"The parameter limit must be a number from 1 to {MAX_PAGE}.")
    return int(text)


def id_of(query: MultiMapping[str], name: str) -> UUID | None:
    """The id in this parameter, if it is given. Raises InvalidInput."""
    if name not in query:
        return None
    try:
        value = UUID(query[name])
    except ValueError:
        value = None
    if value is None or str(value) != query[name].lower():
        raise InvalidInput(f"The parameter {name} must be an id, as it stands in events.")
    return value


def onward(request: web.Request, cursor: object | None) -> str | None:
    """The address of the next page: the same question, behind this cursor."""
    if cursor is None:
        return None
    question = [(name, value) for name, value in request.query.items() if name != "cursor"]
    return f"{request.path}?{urlencode([*question, ('cursor', str(cursor))])}"


def linked(response: web.Response, target: str | None) -> web.Response:
    """The answer with the link to its next page, if there is one (RFC 8288)."""
    if target is not None:
        response.headers.add(hdrs.LINK, f'<{target}>; rel="next"')
    return response


NEXT_LINK: Final[dict[str, Any]] = {hdrs.LINK: "The next page (RFC 8288)."}
