"""Spans for OpenTelemetry, where it is installed (``gatelog[otel]``) and set up; else nothing.

Rules:

- Who has set up no provider of tracers pays for a look at one name.
- A span says what was done and how it went, never what came in: no path, no query, no address, no
  message of an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from gatelog.traces import CURRENT, Trace

NAME: Final = "gatelog"
ERROR_TYPE: Final = "error.type"
Attributes = Mapping[str, str | int]

_NOTHING: Final = nullcontext()
_tracer: Any = None


def configured_tracer() -> Any:
    """A tracer of the provider that this process has set up; None where there is none."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer(NAME)


def use(tracer: Any) -> None:
    """Make spans with this tracer from now on; None: make none."""
    global _tracer  # noqa: PLW0603 - one for a process, like the provider
    _tracer = tracer


def look() -> None:
    """Use the provider that this process has set up, if there is one by now."""
    if _tracer is None:
        use(configured_tracer())


def wanted() -> bool:
    """Whether spans are made."""
    return _tracer is not None


def span(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Any]:
    """A span of this name around a piece of work, within the one that is current."""
    return _NOTHING if _tracer is None else _spanning(name, attributes)


@contextmanager
def _spanning(name: str, attributes: Attributes | None) -> Iterator[Any]:
    with _tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as made:
        try:
            yield made
        except BaseException as error:
            failed(made, type(error).__qualname__)
            raise


@contextmanager
def server_span(headers: Mapping[str, str]) -> Iterator[Any]:
    """A span around a request, within its caller's; the request's trace is that of the span."""
    from opentelemetry import propagate
    from opentelemetry.trace import SpanKind

    with _tracer.start_as_current_span(
        NAME,
        context=propagate.extract(headers),
        kind=SpanKind.SERVER,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        CURRENT.set(Trace(known=f"{made.get_span_context().trace_id:032x}"))
        yield made


def failed(made: Any, kind: str) -> None:
    """Say that what the span is about went wrong, and how, in a word."""
    from opentelemetry.trace import StatusCode

    made.set_attribute(ERROR_TYPE, kind)
    made.set_status(StatusCode.ERROR)
