"""What runs leave behind as frames of pandas or polars.

    client.frames.metrics([ce.id, sed.id], ["reward/mean"])
    client.frames.results([ce.id, sed.id], library="polars")

The library is imported when a frame is made, so that neither is needed otherwise.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal

from api.client.calls import AnyTransport, Conversation, Part, ask, call
from api.client.errors import MissingLibrary
from api.client.requests import get, get_text, path
from api.schemas import Experiment, MetricNamePage, MetricSeriesPage, RolloutSearchPage
from service.contract.stored_rollouts import MAX_LIMIT, RolloutQuery

Library = Literal["pandas", "polars"]
Frame = Any
"""A `pandas.DataFrame` or a `polars.DataFrame`; neither is known to this module's types."""
_WINDOW = 10_000
"""Steps that are asked for at once: the service sends that many points of a series and folds no more into envelopes."""
_TIMEOUT_S = 90.0
_COUNTS = ("part", "num_units", "num_runs")
_NUMBERS = ("x", "mean", "low", "high", "p_value", "p_adjusted")
"""Columns of a report's CSV that are no text; those that begin with `is_` are yes or no."""


class Frames(Part[AnyTransport]):
    """A part of the client: `client.frames`."""

    @call
    def metrics(
        self,
        experiment_ids: str | Sequence[str],
        names: Sequence[str] = (),
        *,
        layout: Literal["long", "wide"] = "long",
        library: Library = "pandas",
    ) -> Conversation[Frame]:
        """Every point of these metrics, or of all, merged over attempts.

        Long: `experiment_id`, `name`, `step`, `ts`, `value`. Wide: `experiment_id`, `step`, and a column a metric.
        """
        make = _maker(library)
        rows: list[dict[str, Any]] = []
        for experiment_id in _listed(experiment_ids):
            rows += yield from _points(experiment_id, names)
        if layout == "long":
            return make(_columns(rows, ("experiment_id", "name", "step", "ts", "value")))
        wide: dict[tuple[str, int], dict[str, Any]] = {}
        for row in rows:
            key = (row["experiment_id"], row["step"])
            wide.setdefault(key, {"experiment_id": key[0], "step": key[1]})[row["name"]] = row["value"]
        return make(_columns([wide[key] for key in sorted(wide)], ("experiment_id", "step", *names)))

    @call
    def rollouts(
        self,
        experiment_id: str,
        query: RolloutQuery | None = None,
        *,
        max_rows: int | None = None,
        library: Library = "pandas",
    ) -> Conversation[Frame]:
        """Stored completions that fit, in the query's order; all of them, or the first `max_rows`.

        Parts of the reward are columns of their own, `reward_parts.NAME`.
        """
        make = _maker(library)
        asked = (query or RolloutQuery(limit=MAX_LIMIT)).model_copy(update={"format": "json"}).as_parameters()
        where = path("experiments", experiment_id, "rollouts", "search")
        rows: list[dict[str, Any]] = []
        while max_rows is None or len(rows) < max_rows:
            page = yield from ask(get(RolloutSearchPage, where, asked, timeout_s=_TIMEOUT_S))
            rows += [_flat(one.model_dump(exclude_unset=True)) for one in page.items]
            if page.next_cursor is None:
                break
            asked["cursor"] = page.next_cursor
        return make(_columns(rows[:max_rows], ()))

    @call
    def report(self, study_id: str, *, library: Library = "pandas") -> Conversation[Frame]:
        """The figures of a study's report, as its CSV has them: one row a figure."""
        make = _maker(library)
        text = yield from ask(get_text(path("studies", study_id, "report.csv"), timeout_s=300.0))
        rows = [{name: _read(name, value) for name, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
        return make(_columns(rows, tuple(text.partition("\n")[0].rstrip("\r").split(","))))

    @call
    def results(self, experiment_ids: str | Sequence[str], *, library: Library = "pandas") -> Conversation[Frame]:
        """One row a finished stage: who ran what, for how long, and a column for each of its final metrics."""
        make = _maker(library)
        rows: list[dict[str, Any]] = []
        for experiment_id in _listed(experiment_ids):
            experiment = yield from ask(get(Experiment, path("experiments", experiment_id)))
            rows += _results(experiment)
        first = ("experiment_id", "name", "project", "status", "seed", "stage", "steps_done", "duration_s")
        return make(_columns(rows, first))


class _Make:
    """Columns to a frame of one library."""

    def __init__(self, library: Library) -> None:
        if library not in ("pandas", "polars"):
            raise ValueError(f"library is 'pandas' or 'polars', not {library!r}")
        try:
            module = import_module(library)
        except ImportError as error:
            raise MissingLibrary(
                f"a frame of {library} needs {library}, which is not installed: pip install 'sedray[frames]'"
            ) from error
        self._frame: Any = module.DataFrame
        # polars looks at the first rows only, and refuses what does not fit them.
        self._settings: dict[str, Any] = {} if library == "pandas" else {"infer_schema_length": None, "strict": False}

    def __call__(self, columns: Mapping[str, list[Any]]) -> Frame:
        return self._frame(columns, **self._settings)


def _maker(library: Library) -> _Make:
    """Found before anything is asked for, so that a missing library is said at once."""
    return _Make(library)


def _points(experiment_id: str, names: Sequence[str]) -> Conversation[list[dict[str, Any]]]:
    """Every point, by windows of steps: a step has one point of a series at most."""
    known = (yield from ask(get(MetricNamePage, path("experiments", experiment_id, "metrics", "names")))).items
    last_step = max((one.last_step for one in known if not names or one.name in names), default=-1)
    rows: list[dict[str, Any]] = []
    for first in range(0, last_step + 1, _WINDOW):
        query = {"name": list(names), "max_points": _WINDOW, "from_step": first, "to_step": first + _WINDOW - 1}
        page = yield from ask(get(MetricSeriesPage, path("experiments", experiment_id, "metrics"), query))
        for series in page.series:
            facts = {"experiment_id": experiment_id, "name": series.name}
            rows += [{**facts, "step": one.step, "ts": one.ts, "value": one.value} for one in series.points]
    return rows


def _results(experiment: Experiment) -> Iterator[dict[str, Any]]:
    for result in experiment.stage_results:
        yield {
            "experiment_id": experiment.id,
            "name": experiment.name,
            "project": experiment.project,
            "status": experiment.status.value,
            "seed": experiment.spec.seed,
            "stage": result.stage,
            "steps_done": result.steps_done,
            "duration_s": result.duration_s,
            **result.metrics,
        }


def _columns(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> dict[str, list[Any]]:
    """Columns in the order of `first`, then as they come; None where a row has no such value."""
    names = dict.fromkeys([*first, *(name for row in rows for name in row)])
    return {name: [row.get(name) for row in rows] for name in names}


def _listed(ids: str | Sequence[str]) -> Sequence[str]:
    return [ids] if isinstance(ids, str) else ids


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    parts = row.pop("reward_parts", None) or {}
    return {**row, **{f"reward_parts.{name}": value for name, value in parts.items()}}


def _read(column: str, text: str) -> Any:
    """A cell of the report's CSV, as the column's type; None where it is empty."""
    if not text:
        return None
    if column in _COUNTS:
        return int(text)
    if column in _NUMBERS:
        return float(text)
    return text == "True" if column.startswith("is_") else text
