"""The client's calls about what a run leaves behind, and about its data before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from api.axis_schemas import AxisPage
from api.client.calls import AnyTransport, Emit, Follow, Part, Walk, ask, call, walk
from api.client.experiments import spec_body
from api.client.live import StreamMessage
from api.client.requests import Request, download, get, path, send
from api.operation_schemas import LogSources
from api.schemas import (
    LogLineOut,
    LogPage,
    MetricNamePage,
    MetricSeriesPage,
    RolloutPage,
    RolloutSearchPage,
    StoredRolloutOut,
    StoredRolloutsPage,
    TokenViewPage,
)
from api.stream_schemas import MetricValue
from service.contract.messages import TokenView
from service.contract.preview import DataPreview
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from service.contract.stored_rollouts import RolloutQuery

_PREVIEW_TIMEOUT_S = 600.0
"""The service ends a preview much earlier, and says so."""
_SEARCH_TIMEOUT_S = 90.0
"""The service ends a page earlier."""
_WINDOW = 10_000
"""Steps asked for at once: the most points of a series that the service sends."""
_BATCH = 10
"""Series asked for at once, so that an answer stays within some megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPoint:
    """One value of one metric."""

    name: str
    step: int
    ts: datetime
    value: float


class MetricCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def metric_names(self, experiment_id: str) -> Request[MetricNamePage]:
        """The metrics that the experiment has, with their newest values."""
        return get(MetricNamePage, path("experiments", experiment_id, "metrics", "names"))

    @call
    def metrics(
        self,
        experiment_id: str,
        names: Sequence[str] = (),
        *,
        max_points: int = 1000,
        from_step: int | None = None,
        to_step: int | None = None,
    ) -> Request[MetricSeriesPage]:
        """Series as points where they fit into `max_points`, else as envelopes."""
        query = {"name": list(names), "max_points": max_points, "from_step": from_step, "to_step": to_step}
        return get(MetricSeriesPage, path("experiments", experiment_id, "metrics"), query)

    @call
    def metric_axes(self, experiment_id: str, *, max_knots: int = 500) -> Request[AxisPage]:
        """What each stage's steps are in time, tokens and device-hours; between knots, interpolate."""
        return get(AxisPage, path("experiments", experiment_id, "metrics", "axes"), {"max_knots": max_knots})

    @walk
    def metric_points(
        self,
        experiment_id: str,
        names: Sequence[str] = (),
        *,
        from_step: int | None = None,
        to_step: int | None = None,
    ) -> Walk[MetricPoint]:
        """Every point of these metrics, or of all, merged over attempts; some metrics and steps at a time."""
        return points_of(experiment_id, names, from_step, to_step)

    @walk
    def follow_metrics(
        self, experiment_id: str, names: Sequence[str] = (), *, last_event_id: str | None = None
    ) -> Follow[MetricValue]:
        """The newest values as they come, of these metrics or of all, until the experiment has ended.

        Of values that come quickly after one another some are passed over; `metrics` has them all.
        """
        wanted = frozenset(names)

        def values_of(message: StreamMessage) -> Walk[MetricValue]:
            if message.event == "metrics":
                values = [MetricValue.model_validate(value) for value in message.data["values"]]
                yield Emit([value for value in values if not wanted or value.name in wanted])

        return Follow(experiment_id=experiment_id, last_event_id=last_event_id, pick=values_of)


class LogCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def logs(
        self,
        experiment_id: str,
        *,
        after: int | None = None,
        tail: int | None = None,
        limit: int | None = None,
        source: str | None = None,
        attempt: int | None = None,
        search: str | None = None,
    ) -> Request[LogPage]:
        """Log lines after an id, or the newest `tail`; of one source or attempt, or with a text in them."""
        query = {"after": after, "tail": tail, "limit": limit, "source": source, "attempt": attempt, "search": search}
        return get(LogPage, path("experiments", experiment_id, "logs"), query)

    @walk
    def follow_logs(
        self,
        experiment_id: str,
        *,
        after: int = 0,
        source: str | None = None,
        attempt: int | None = None,
        search: str | None = None,
    ) -> Follow[LogLineOut]:
        """Every line with a larger id than `after`, old ones first, then new ones until the experiment has ended."""
        read_to = after

        def new_lines(message: StreamMessage) -> Walk[LogLineOut]:
            nonlocal read_to
            where = path("experiments", experiment_id, "logs")
            more = message.event in ("logs", "end")
            while more:
                query = {"after": read_to, "source": source, "attempt": attempt, "search": search}
                page: LogPage = yield from ask(get(LogPage, where, query))
                yield Emit(page.items)
                read_to = max([read_to, page.next_after or 0, *(line.id for line in page.items)])
                more = page.next_after is not None

        return Follow(experiment_id=experiment_id, last_event_id=None, pick=new_lines)

    @call
    def log_sources(self, experiment_id: str) -> Request[LogSources]:
        """Who has written log lines: the driver, its actors, the scheduler."""
        return get(LogSources, path("experiments", experiment_id, "logs", "sources"))

    @call
    def download_log(self, experiment_id: str, target: Path) -> Request[None]:
        """Writes time, attempt, source and text of every line to `target`."""
        return download(path("experiments", experiment_id, "logs", "download"), target)


class RolloutCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def rollouts(self, experiment_id: str, *, limit: int = 20, before: int | None = None) -> Request[RolloutPage]:
        """Stored completions, newest first."""
        return get(RolloutPage, path("experiments", experiment_id, "rollouts"), {"limit": limit, "before": before})

    @call
    def stored_rollouts(self, experiment_id: str) -> Request[StoredRolloutsPage]:
        """The RL steps whose rollouts are stored whole."""
        return get(StoredRolloutsPage, path("experiments", experiment_id, "rollouts", "stored"))

    @call
    def download_rollouts(self, experiment_id: str, step: int, target: Path) -> Request[None]:
        """Writes the rollouts of one RL step to `target`, a Parquet file that appears when it is whole."""
        return download(path("experiments", experiment_id, "rollouts", "stored", step), target)

    @walk
    def search_rollouts(self, experiment_id: str, query: RolloutQuery | None = None) -> Walk[StoredRolloutOut]:
        """All stored completions that fit, in the query's order, page after page; its `limit` is a page's."""
        return stored_of(experiment_id, query)

    @call
    def export_rollouts(self, experiment_id: str, target: Path, query: RolloutQuery | None = None) -> Request[None]:
        """Writes all stored completions that fit to `target`, a Parquet file that appears when it is whole."""
        where = path("experiments", experiment_id, "rollouts", "search")
        return download(where, target, _parameters(query, "parquet"))


class DataCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def token_views(
        self,
        experiment_id: str,
        *,
        stage: StageName | None = None,
        step: int | None = None,
        sample_index: int | None = None,
        after: int | None = None,
        limit: int = 200,
    ) -> Request[TokenViewPage]:
        """Which samples were looked at token by token, and after which steps; oldest first."""
        query = {"stage": stage, "step": step, "sample_index": sample_index, "after": after, "limit": limit}
        return get(TokenViewPage, path("experiments", experiment_id, "token-views"), query)

    @call
    def token_view(
        self, experiment_id: str, *, step: int, sample_index: int = 0, stage: StageName = "sft"
    ) -> Request[TokenView]:
        """One held-out sample token by token, as it was after `step` optimizer steps."""
        return get(TokenView, path("experiments", experiment_id, "token-views", stage, step, sample_index))

    @call
    def preview_data(
        self, spec: ExperimentSpec | Mapping[str, Any], *, num_samples: int = 3, max_records: int = 20_000
    ) -> Request[DataPreview]:
        """The first samples of each data set as tokens with what is trained, lengths, counts and digests."""
        return send(
            DataPreview,
            "POST",
            path("data", "preview"),
            spec_body(spec),
            params={"num_samples": num_samples, "max_records": max_records},
            timeout_s=_PREVIEW_TIMEOUT_S,
            may_repeat=True,
        )


def points_of(
    experiment_id: str, names: Sequence[str], from_step: int | None, to_step: int | None
) -> Walk[MetricPoint]:
    """A step has one point of a series at most, so a window of steps is never folded into an envelope."""
    where = path("experiments", experiment_id, "metrics")
    known = (yield from ask(get(MetricNamePage, f"{where}/names"))).items
    wanted = [one for one in known if not names or one.name in names]
    for batch in (wanted[place : place + _BATCH] for place in range(0, len(wanted), _BATCH)):
        last = max(one.last_step for one in batch)
        last = last if to_step is None else min(last, to_step)
        for first in range(from_step or 0, last + 1, _WINDOW):
            query = {"name": [one.name for one in batch], "max_points": _WINDOW, "from_step": first}
            query["to_step"] = min(first + _WINDOW - 1, last)
            page = yield from ask(get(MetricSeriesPage, where, query))
            for series in page.series:
                yield Emit(
                    MetricPoint(name=series.name, step=one.step, ts=one.ts, value=one.value) for one in series.points
                )


def stored_of(experiment_id: str, query: RolloutQuery | None) -> Walk[StoredRolloutOut]:
    """Page after page; the query's `limit` is a page's."""
    asked = _parameters(query, "json")
    where = path("experiments", experiment_id, "rollouts", "search")
    while True:
        page = yield from ask(get(RolloutSearchPage, where, asked, timeout_s=_SEARCH_TIMEOUT_S))
        yield Emit(page.items)
        if page.next_cursor is None:
            return
        asked["cursor"] = page.next_cursor


def _parameters(query: RolloutQuery | None, form: str) -> dict[str, Any]:
    return dict((query or RolloutQuery()).model_copy(update={"format": form}).as_parameters())
