"""OpenTelemetry, where it is wanted: spans to a collector over OTLP; without an address nothing is imported or done.

SEDRAY_OTLP_ENDPOINT=http://collector:4318     needs the `telemetry` extra
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

logger = logging.getLogger(__name__)

_state: dict[str, Any] = {}
"""The tracer of this process, once there is one."""


def configure_tracing(role: str, endpoint: str | None) -> None:
    """Sends this process's spans to `endpoint`; called once, in its main. Raises ValueError without the extra."""
    if endpoint is None:
        return
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        raise ValueError(
            "SEDRAY_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: pip install 'sedray[telemetry]'"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"sedray-{role}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    use_provider(provider)
    logger.info("traces go to a collector", extra={"endpoint": endpoint})


def use_provider(provider: Any) -> None:
    """Spans go there from now on; for tests as well, which keep them in memory. None: nowhere."""
    _state.clear()
    if provider is not None:
        _state["provider"] = provider
        _state["tracer"] = provider.get_tracer("sedray")


@contextmanager
def span(name: str, *, headers: Mapping[str, str] | None = None, **attributes: str | int | float) -> Iterator[Any]:
    """A span around the block; `headers` may continue somebody else's trace. Yields it, or None without tracing."""
    if "tracer" not in _state:
        yield None
        return
    from opentelemetry.propagate import extract

    context = extract(headers) if headers else None
    with _state["tracer"].start_as_current_span(name, context=context, attributes=attributes) as started:
        yield started


def flush_tracing() -> None:
    """Sends what is left; called at a process's end."""
    if "provider" in _state:
        _state["provider"].shutdown()
