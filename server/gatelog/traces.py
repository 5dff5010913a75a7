"""The trace that a request belongs to, so that its lines in all logs are found by one id.

W3C Trace Context (level 1, section 3.2): the caller's, if it sends a well-formed ``traceparent``,
else one of the request's own. Rules:

- Nobody pays for an id that nobody asks for: the header is looked at, and an id drawn, only then.
- An id is what a caller says: good for finding things, and a proof of nothing. It is hexadecimal
  whatever was sent, so that it may stand anywhere.
- What goes on outside of requests has no trace. A task that a request starts has the request's.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

import msgspec
from multidict import MultiMapping

HEADER: Final = "traceparent"
_VERSION_0_LENGTH = 55

# version, trace-id, parent-id, trace-flags; a later version may go on after another dash
_traceparent = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
).fullmatch


def trace_id_of(lines: Sequence[str]) -> str | None:
    """The trace id of these ``traceparent`` headers; None unless there is one, and well-formed."""
    if len(lines) != 1:
        return None
    match = _traceparent(lines[0])
    if match is None or (lines[0].startswith("00") and len(lines[0]) != _VERSION_0_LENGTH):
        return None
    return match[1]


class Trace(msgspec.Struct, gc=False):  # made for each request, and so with little ado
    """The trace of one request. ``headers``: its own, not looked at before somebody asks.

    ``known``: the id, where somebody knows it already.
    """

    headers: MultiMapping[str] | None = None
    known: str | None = None

    @property
    def id(self) -> str:
        """32 hexadecimal digits, the same ones whenever it is asked."""
        if self.known is None:
            lines = self.headers.getall(HEADER, []) if self.headers is not None else ()
            self.known = trace_id_of(lines) or secrets.token_hex(16)
        return self.known


CURRENT: Final[ContextVar[Trace | None]] = ContextVar("trace", default=None)


def current_trace_id() -> str | None:
    """The id of the trace that this code runs for; None outside of requests."""
    trace = CURRENT.get()
    return trace.id if trace is not None else None
