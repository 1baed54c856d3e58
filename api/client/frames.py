"""What runs leave behind as frames of pandas or polars.

    client.frames.metrics([ce.id, sed.id], ["reward/mean"])
    client.frames.results([ce.id, sed.id], library="polars")

The library is imported when a frame is made, so that neither is needed otherwise.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Any, Literal

from api.client.calls import AnyTransport, Conversation, Part, ask, call, collect
from api.client.errors import MissingLibrary
from api.client.findings import points_of, stored_of
from api.client.requests import get, get_text, path
from api.schemas import Experiment
from service.contract.stored_rollouts import MAX_LIMIT, RolloutQuery

Library = Literal["pandas", "polars"]
Frame = Any
"""A `pandas.DataFrame` or a `polars.DataFrame`; neither is known to this module's types."""
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
        found = yield from collect(stored_of(experiment_id, query or RolloutQuery(limit=MAX_LIMIT)), max_rows)
        return make(_columns([_flat(one.model_dump(exclude_unset=True)) for one in found], ()))

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


def _maker(library: Library) -> Callable[[Mapping[str, list[Any]]], Frame]:
    """Columns to a frame; found before anything is asked for, so that a missing library is said at once."""
    if library not in ("pandas", "polars"):
        raise ValueError(f"library is 'pandas' or 'polars', not {library!r}")
    try:
        frame = import_module(library).DataFrame
    except ImportError as error:
        raise MissingLibrary(
            f"a frame of {library} needs {library}, which is not installed: pip install 'sedray[frames]'"
        ) from error
    # polars looks at the first rows only, and refuses what does not fit them.
    return partial(frame, infer_schema_length=None, strict=False) if library == "polars" else partial(frame)


def _points(experiment_id: str, names: Sequence[str]) -> Conversation[list[dict[str, Any]]]:
    points = yield from collect(points_of(experiment_id, names, None, None))
    return [{"experiment_id": experiment_id, **asdict(point)} for point in points]


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
