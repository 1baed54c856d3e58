"""The service's figures as gauges: shown by the scheduler that leads, and by it alone, so that nothing counts twice."""

from collections.abc import Iterable

from prometheus_client import Gauge
from sqlalchemy.exc import SQLAlchemyError

from service.contract.failures import class_of
from service.contract.status import EndReason
from service.figures import Cluster, Figures, read_figures
from service.storage.database import Sessions

_EXPERIMENTS = Gauge("sedray_experiments", "Experiments", ("status", "priority"))
_OLDEST = Gauge("sedray_queue_oldest_wait_seconds", "Age of the one that waits longest", ("priority",))
_WAIT = Gauge(
    "sedray_queue_wait_seconds", "Wait of those first admitted within the last hour", ("priority", "quantile")
)
_UNRELEASED = Gauge("sedray_attempts_unreleased", "Attempts whose resources count as taken")
_ENDS = Gauge("sedray_attempts_ended", "Ended attempts since the beginning", ("reason", "failure"))
_RAY_UP = Gauge("sedray_ray_reachable", "1 while Ray answers")
_RAY_SEEN = Gauge("sedray_ray_seen_timestamp_seconds", "When Ray was last seen")
_CLUSTER = Gauge("sedray_cluster_resources", "Resources of the cluster", ("kind", "state"))
_PROCESSES = Gauge("sedray_processes", "Living processes", ("role",))
_LEASE_TOKEN = Gauge("sedray_lease_token", "Rises with each change of the scheduler that leads")
_LEASE_LEFT = Gauge("sedray_lease_remaining_seconds", "Until another scheduler may lead; negative: nobody leads")
_LINES = Gauge("sedray_log_lines_unshipped", "Log lines that are not in the storage yet, about")
_BYTES = Gauge("sedray_database_bytes", "Size of the database")
_LABELLED = (_EXPERIMENTS, _OLDEST, _WAIT, _ENDS, _CLUSTER, _PROCESSES)
_PLAIN = (_UNRELEASED, _RAY_UP, _RAY_SEEN, _LEASE_TOKEN, _LEASE_LEFT, _LINES, _BYTES)


async def update_gauges(sessions: Sessions) -> None:
    """Reads the figures and shows them. Raises SQLAlchemyError, and shows none then: old ones would mislead."""
    try:
        async with sessions() as session:
            figures = await read_figures(session)
    except SQLAlchemyError:
        clear_gauges()
        raise
    _show(figures)


def clear_gauges() -> None:
    """Another leads now, and shows its own."""
    for gauge in _LABELLED:
        gauge.clear()
    _set_all((gauge, float("nan")) for gauge in _PLAIN)


def _show(figures: Figures) -> None:
    for gauge in _LABELLED:
        gauge.clear()
    for (status, priority), count in figures.experiments.items():
        _EXPERIMENTS.labels(status, priority).set(count)
    for waiting in figures.waiting:
        _OLDEST.labels(waiting.priority).set(waiting.oldest_s)
        _WAIT.labels(waiting.priority, "0.5").set(waiting.median_s)
        _WAIT.labels(waiting.priority, "0.9").set(waiting.p90_s)
    for reason, count in figures.ends.items():
        failure = class_of(EndReason(reason))
        _ENDS.labels(reason, failure.value if failure else "none").set(count)
    for role, count in figures.processes.items():
        _PROCESSES.labels(role).set(count)
    _show_cluster(figures.cluster)
    _set_all(
        [
            (_UNRELEASED, figures.attempts_unreleased),
            (_LEASE_TOKEN, figures.lease.token),
            (_LEASE_LEFT, figures.lease.remaining_s),
            (_LINES, figures.log_lines),
            (_BYTES, figures.database_bytes),
        ]
    )


def _show_cluster(cluster: Cluster | None) -> None:
    _RAY_UP.set(1 if cluster is not None and cluster.is_reachable else 0)
    if cluster is None:
        return
    _RAY_SEEN.set(cluster.observed_at.timestamp())
    for kind, total, taken in (
        ("cpu", cluster.num_cpus, cluster.num_cpus_taken),
        ("gpu", cluster.num_gpus, cluster.num_gpus_taken),
    ):
        _CLUSTER.labels(kind, "total").set(total)
        _CLUSTER.labels(kind, "taken").set(taken)


def _set_all(values: Iterable[tuple[Gauge, float]]) -> None:
    for gauge, value in values:
        gauge.set(value)
