"""What this process counts for Prometheus, and the port on which it tells.

The port is not that of the API: figures about everybody's work are for the operator's network alone.

    SEDRAY_METRICS_PORT=9464    http://<SEDRAY_METRICS_HOST>:9464/metrics, of the API as of the scheduler
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram, start_http_server

logger = logging.getLogger(__name__)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

REQUESTS = Counter("sedray_http_requests", "Requests to the API", ("method", "route", "status"))
REQUEST_SECONDS = Histogram(
    "sedray_http_request_seconds", "Time to a request's end; live streams are left out", ("method", "route"),
    buckets=_SECONDS,
)  # fmt: skip
REPORTS = Counter("sedray_ingest_reports", "Reports of drivers", ("outcome",))
POINTS = Counter("sedray_ingest_points", "Metric points that drivers sent")
LINES = Counter("sedray_ingest_log_lines", "Log lines that drivers sent")
WATCHERS = Gauge("sedray_live_watchers", "Open live streams of this process")

PASS_SECONDS = Histogram("sedray_scheduler_pass_seconds", "Time of one pass", ("loop",), buckets=_SECONDS)
PASS_FAILURES = Counter("sedray_scheduler_pass_failures", "Passes that ended with an error", ("loop",))
LEADS = Gauge("sedray_scheduler_leads", "1 while this scheduler leads")
RAY_REQUESTS = Counter("sedray_ray_requests", "Requests to Ray's dashboard", ("outcome",))


@contextmanager
def timed_pass(loop: str) -> Iterator[None]:
    """Measures one pass of a scheduler's loop."""
    began = perf_counter()
    try:
        yield
    except Exception:
        PASS_FAILURES.labels(loop).inc()
        raise
    finally:
        PASS_SECONDS.labels(loop).observe(perf_counter() - began)


def serve_metrics(host: str, port: int | None) -> None:
    """Tells on this port from now on, in a thread of its own; called once, in a process's main. Does nothing for None.

    Raises OSError if the port is taken.
    """
    if port is None:
        return
    start_http_server(port, addr=host)
    logger.info("metrics are served", extra={"host": host, "port": port})
