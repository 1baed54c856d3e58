"""A run in MLflow's format: in a folder or on a server. Needs the extra `mirrors`."""

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from api.exports.extras import require
from api.exports.gathered_run import Series
from api.schemas import Experiment
from service.contract.status import ExperimentStatus
from service.contract.tracked_run import EXPERIMENT_TAG, mlflow_name, run_parameters, run_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_METRICS_PER_CALL = 1000
_PARAMETERS_PER_CALL = 100
"""What MLflow's servers take at once."""
_PARAMETER_CHARACTERS = 6000
_ENDS = {
    ExperimentStatus.SUCCEEDED: "FINISHED",
    ExperimentStatus.FAILED: "FAILED",
    ExperimentStatus.CANCELLED: "KILLED",
}


One = TypeVar("One")


class RunExists(Exception):
    """The experiment is in this place already."""


def export_mlflow(
    experiment: Experiment, series: Iterable[Series], documents: dict[str, str], *, place: str, name: str
) -> str:
    """Write the run, and return its id there. `documents` become artifacts, by file name.

    `place` is a folder or the address of a server; `name` that of MLflow's experiment. Raises MissingExtra, RunExists.
    """
    require("mlflow", "MLflow")
    if not urlsplit(place).scheme:
        place = f"file://{os.path.abspath(place)}"
    if place.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow refuses folders otherwise
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=place)
    run = _new_run(client, experiment, name)
    _log_parameters(client, run.info.run_id, experiment)
    for some in _in_groups(_metrics(series), _METRICS_PER_CALL):
        client.log_batch(run.info.run_id, metrics=some)
    for file, text in documents.items():
        client.log_text(run.info.run_id, text, file)
    if experiment.ended_at is not None:
        ended = int(experiment.ended_at.timestamp() * 1000)
        client.set_terminated(run.info.run_id, _ENDS[experiment.status], end_time=ended)
    return str(run.info.run_id)


def _new_run(client: "MlflowClient", experiment: Experiment, name: str) -> "Run":
    known = client.get_experiment_by_name(name)
    experiment_id = client.create_experiment(name) if known is None else known.experiment_id
    there = client.search_runs([experiment_id], f"tags.`{EXPERIMENT_TAG}` = '{experiment.id}'", max_results=1)
    if there:
        raise RunExists(
            f"{experiment.id} is there already as run {there[0].info.run_id}; delete it there, or give --experiment"
        )
    began = experiment.started_at or experiment.submitted_at
    tags = run_tags(experiment.id, experiment.spec) | {"mlflow.user": experiment.user}
    tags |= {"mlflow.note.content": experiment.description} if experiment.description else {}
    return client.create_run(
        experiment_id, start_time=int(began.timestamp() * 1000), run_name=experiment.name, tags=tags
    )


def _log_parameters(client: "MlflowClient", run_id: str, experiment: Experiment) -> None:
    from mlflow.entities import Param

    found = (
        Param(mlflow_name(name), value[:_PARAMETER_CHARACTERS])
        for name, value in run_parameters(experiment.spec).items()
        if value
    )
    for some in _in_groups(found, _PARAMETERS_PER_CALL):
        client.log_batch(run_id, params=some)


def _metrics(series: Iterable[Series]) -> Iterator["Metric"]:
    from mlflow.entities import Metric

    return chain.from_iterable(
        (
            Metric(mlflow_name(one.name), point.value, int(point.ts.timestamp() * 1000), point.step)
            for point in one.points
        )
        for one in series
    )


def _in_groups(items: Iterable[One], size: int) -> Iterator[list[One]]:
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
