"""Where a worker sends its spans: what the variables of OpenTelemetry say, if they say anything."""

from __future__ import annotations

import logging
import os

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
DISABLED = "OTEL_SDK_DISABLED"
SERVICE_NAME = "OTEL_SERVICE_NAME"


def export_spans() -> None:
    """Send this process' spans by OTLP over HTTP, where an endpoint is named; else none is made.

    Called after the fork: it starts a thread.
    """
    if os.environ.get(DISABLED, "").lower() == "true" or not any(map(os.environ.get, ENDPOINTS)):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("an endpoint for spans is set, and 'gatelog[otel]' is not installed: none")
        return
    own = {} if os.environ.get(SERVICE_NAME) else {"service.name": "gatelog"}
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
