"""What Prometheus and a collector are told."""

import socket
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest

from service import attempts, tracing
from service.contract.status import EndReason
from service.figures import read_figures
from service.scheduler.figure_gauges import clear_gauges, update_gauges
from service.storage.database import Sessions
from service.storage.processes import record_life
from service.telemetry import serve_metrics, timed_pass
from tests.factories import make_attempt, make_experiment

pytestmark = pytest.mark.anyio


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Where the spans of a test go."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use_provider(provider)
    yield exporter
    tracing.use_provider(None)
    provider.shutdown()


async def test_figures_count_what_there_is(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await make_experiment(session, priority="high")
        attempt = await make_attempt(session)
        await attempts.end_attempt(session, attempt, EndReason.CONFIG_ERROR, "no", {})
        await record_life(session, "api", "one", detail={})
    async with sessions() as session:
        figures = await read_figures(session)
    assert figures.experiments["queued", "high"] == 1
    assert figures.experiments["failed", "normal"] == 1
    assert (figures.attempts_unreleased, figures.ends, figures.processes) == (
        1,
        {"config_error": 1},
        {"api": 1, "scheduler": 0},
    )
    assert {one.priority: one.oldest_s > 0 for one in figures.waiting}["high"]
    assert (figures.cluster, figures.lease.remaining_s) == (None, -1.0)
    assert figures.database_bytes > 1_000_000


async def test_the_scheduler_shows_them_while_it_leads(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await make_experiment(session)
    await update_gauges(sessions)
    told = generate_latest().decode()
    assert 'sedray_experiments{priority="normal",status="queued"} 1.0' in told
    assert "sedray_ray_reachable 0.0" in told
    clear_gauges()
    assert "sedray_experiments{" not in generate_latest().decode()


def test_the_figures_have_a_port_of_their_own() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with timed_pass("admit"):
        pass
    serve_metrics("127.0.0.1", port)
    told = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'sedray_scheduler_pass_seconds_count{loop="admit"}' in told


def test_without_a_collector_nothing_is_traced() -> None:
    with tracing.span("anything", place="here") as started:
        assert started is None


def test_a_trace_that_somebody_began_goes_on(spans: InMemorySpanExporter) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with tracing.span("request", headers={"traceparent": caller}, answer=200):
        pass
    [span] = spans.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == caller.split("-")[1]
    assert span.attributes is not None and span.attributes["answer"] == 200
