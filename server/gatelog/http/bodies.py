"""What comes in with a request: bodies and ids, and what becomes of everything else.

Rules: a body is a JSON object in UTF-8 of bounded size, there in time, named once, all fields known
and of their type. Whatever else comes is one of our errors (400, 408, 413, 415, 422), and none of
them quotes the body: a password may stand anywhere in it. An id has one spelling.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import msgspec
from aiohttp import hdrs, web

from gatelog.errors import (
    BadRequest,
    BodyTooLarge,
    InvalidInput,
    MalformedJson,
    NotFound,
    RequestTimedOut,
    UnsupportedMediaType,
)
from gatelog.http.settings import CONFIG
from gatelog.text import is_storable

MAX_BODY_BYTES = 16 * 1024
_MAX_INTEGER_DIGITS = 19

_json_type = re.compile(r'application/json(?:\s*;\s*charset\s*=\s*"?utf-?8"?)?\s*', re.IGNORECASE)
_place = re.compile(r"at `\$\.([a-z_]+)`$")

BodyT = TypeVar("BodyT", bound=msgspec.Struct)


class SlowBody(web.RequestPayloadError, TimeoutError):
    """The client does not go on with its body. To aiohttp, which reads what a handler has left, it
    is a limit of time."""


async def read_body(
    request: web.Request, expected: type[BodyT], *, limit: int = MAX_BODY_BYTES
) -> BodyT:
    """The request's body as this struct: JSON of at most ``limit`` bytes, all its fields known.

    Where every field may be left out, so may the body.

    Raises UnsupportedMediaType (415), BodyTooLarge (413), RequestTimedOut (408), BadRequest and
    MalformedJson (400), and InvalidInput (422), which names the field and does not quote it.
    """
    if not request.body_exists and may_be_missing(expected):
        return expected()
    if _json_type.fullmatch(request.headers.get(hdrs.CONTENT_TYPE, "")) is None:
        raise UnsupportedMediaType()
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed.")
    return parse_body(await read_bytes(request, limit), expected)


def may_be_missing(expected: type[msgspec.Struct]) -> bool:
    """Whether there need be no body: nothing in it is required."""
    return not any(field.required for field in msgspec.structs.fields(expected))


async def read_bytes(request: web.Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The body's bytes, at most so many, there in time.

    Raises BodyTooLarge, RequestTimedOut and BadRequest.
    """
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"The body is larger than {limit} bytes.")
    body = bytearray()
    try:
        async with asyncio.timeout(request.config_dict[CONFIG].body_timeout_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise BodyTooLarge(f"The body is larger than {limit} bytes.")
    except TimeoutError as error:
        raise RequestTimedOut() from error
    except web.RequestPayloadError as error:
        raise BadRequest("The body does not arrive as announced.") from error
    return bytes(body)


def parse_body(body: bytes, expected: type[BodyT]) -> BodyT:
    """The struct in these bytes. Raises MalformedJson or InvalidInput."""
    content = _parse_json(body)
    if not isinstance(content, dict):
        raise InvalidInput("The body must be a JSON object.")
    _check_fields(content, expected)
    try:
        return msgspec.convert(content, expected, strict=True)
    except msgspec.ValidationError as error:
        place = _place.search(str(error))
        which = f"The field {place[1]}" if place else "A field"
        raise InvalidInput(f"{which} has a wrong type or value.") from error


def _check_fields(content: dict[str, Any], expected: type[msgspec.Struct]) -> None:
    fields = msgspec.structs.fields(expected)
    if not content.keys() <= {field.encode_name for field in fields}:
        known = ", ".join(field.encode_name for field in fields)
        raise InvalidInput(f"There is an unknown field; the fields are {known}.")
    for field in fields:
        value = content.get(field.encode_name)
        if field.required and field.encode_name not in content:
            raise InvalidInput(f"The field {field.encode_name} is missing.")
        if isinstance(value, str) and not is_storable(value):
            raise InvalidInput(f"The field {field.encode_name} has NUL or a lone surrogate.")


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique_names,
            parse_int=_bounded_integer,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise MalformedJson("The body is not UTF-8.") from error
    except RecursionError as error:
        raise MalformedJson("The body is nested too deeply.") from error
    except json.JSONDecodeError as error:
        raise MalformedJson(f"It goes wrong at character {error.pos + 1}.") from error


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise MalformedJson("A name occurs twice in an object.")
    return content


def _bounded_integer(digits: str) -> int:
    if len(digits) > _MAX_INTEGER_DIGITS:
        raise MalformedJson("An integer is too large.")
    return int(digits)


def _refuse_constant(_: str) -> NoReturn:
    raise MalformedJson("NaN and Infinity are not JSON.")


def id_in_path(request: web.Request, name: str, otherwise: str) -> UUID:
    """The id of this name; any other text names nothing. Raises NotFound, saying ``otherwise``."""
    text = request.match_info[name]
    try:
        value = UUID(text)
    except ValueError:
        raise NotFound(otherwise) from None
    if str(value) != text.lower():
        raise NotFound(otherwise)
    return value
