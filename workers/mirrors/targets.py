"""The trackers behind one protocol. Each imports its tool only when it is asked for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from service.contract.mirrors import MlflowMirror, TensorboardMirror, WandbMirror
from service.contract.tracked_run import EXPERIMENT_TAG, mlflow_name
from workers.mirrors.orders import MirrorOrders, Point, RunEnd

_METRICS_PER_CALL = 1000
_PARAMETERS_PER_CALL = 100
_PARAMETER_CHARACTERS = 6000
_WANDB_SECONDS = 30


class Target(Protocol):
    """One run in one tracker. All of its calls may block, and may raise whatever the tool raises."""

    def start(self) -> str:
        """Find the run of an earlier attempt, or make one; says where it can be seen."""
        ...

    def write(self, points: Sequence[Point]) -> None:
        """Some values, in the order in which they came."""
        ...

    def finish(self, end: RunEnd) -> None:
        """Everything is written when this returns."""
        ...


def open_target(orders: MirrorOrders) -> Target:
    """The tracker that the orders name. Raises ImportError where it is not installed."""
    match orders.mirror:
        case MlflowMirror():
            return MlflowTarget(orders, orders.mirror)
        case WandbMirror():
            return WandbTarget(orders, orders.mirror)
        case TensorboardMirror():
            return TensorboardTarget(orders, orders.mirror)


class MlflowTarget:
    """A run that is found again by its tag, whichever attempt comes."""

    def __init__(self, orders: MirrorOrders, mirror: MlflowMirror) -> None:
        os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"})
        place = mirror.tracking_uri or orders.folder
        if not place.startswith(("http://", "https://", "file:")):
            place = f"file://{os.path.abspath(place)}"
        if place.startswith("file:"):
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow refuses folders otherwise
        if orders.key is not None:
            os.environ["MLFLOW_TRACKING_TOKEN"] = orders.key
        from mlflow import MlflowClient

        self._place = place
        self._orders, self._experiment = orders, mirror.experiment
        self._client = MlflowClient(tracking_uri=place)
        self._run_id = ""

    def start(self) -> str:
        """See Target."""
        from mlflow.entities import Param

        known = self._client.get_experiment_by_name(self._experiment)
        where = self._client.create_experiment(self._experiment) if known is None else known.experiment_id
        wanted = f"tags.`{EXPERIMENT_TAG}` = '{self._orders.experiment_id}'"
        there = self._client.search_runs([where], wanted, max_results=1)
        if there:
            self._run_id = there[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            tags = self._orders.tags | {"mlflow.note.content": self._orders.description}
            self._run_id = self._client.create_run(where, run_name=self._orders.name, tags=tags).info.run_id
            values = [
                Param(mlflow_name(name), value[:_PARAMETER_CHARACTERS])
                for name, value in self._orders.parameters.items()
                if value
            ]
            for first in range(0, len(values), _PARAMETERS_PER_CALL):
                self._client.log_batch(self._run_id, params=values[first : first + _PARAMETERS_PER_CALL])
        return f"run {self._run_id} at {self._place}"

    def write(self, points: Sequence[Point]) -> None:
        """See Target."""
        from mlflow.entities import Metric

        metrics = [Metric(mlflow_name(name), value, int(ts * 1000), step) for name, step, ts, value in points]
        for first in range(0, len(metrics), _METRICS_PER_CALL):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + _METRICS_PER_CALL])

    def finish(self, end: RunEnd) -> None:
        """See Target."""
        if end != "RUNNING":
            self._client.set_terminated(self._run_id, end)


class WandbTarget:
    """A run whose id is the experiment's, so that every attempt goes on with it."""

    def __init__(self, orders: MirrorOrders, mirror: WandbMirror) -> None:
        os.environ.update({"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"})
        if orders.key is not None:
            os.environ["WANDB_API_KEY"] = orders.key
        import wandb

        self._wandb, self._orders, self._mirror = wandb, orders, mirror
        self._run: Any = None
        self._groups: set[str] = set()

    def start(self) -> str:
        """See Target."""
        folder = Path(self._mirror.dir or self._orders.folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = self._wandb.Settings(
            base_url=self._mirror.base_url,
            console="off",
            disable_code=True,
            disable_git=True,
            init_timeout=_WANDB_SECONDS,
            login_timeout=_WANDB_SECONDS,
            save_code=False,
            silent=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        self._run = self._wandb.init(
            project=self._mirror.project,
            entity=self._mirror.entity,
            mode=self._mirror.mode,
            id=self._orders.experiment_id,
            resume="allow",
            name=self._orders.name,
            notes=self._orders.description,
            tags=[tag[:64] for tag in self._orders.tags.get("sedray.tags", "").split(",") if tag],
            config=self._orders.config | {"sedray": self._orders.tags},
            dir=str(folder),
            settings=settings,
        )
        return str(self._run.url or self._run.dir)

    def write(self, points: Sequence[Point]) -> None:
        """See Target. Each group of metrics has its own axis: W&B's single counter of steps would only go forward."""
        by_step: dict[tuple[str, int], dict[str, float]] = {}
        for name, step, _, value in points:
            group = name.partition("/")[0]
            by_step.setdefault((group, step), {})[name] = value
        for (group, step), values in by_step.items():
            axis = f"{group}/step"
            if group not in self._groups:
                self._groups.add(group)
                self._run.define_metric(axis, hidden=True)
                self._run.define_metric(f"{group}/*", step_metric=axis)
            self._run.log({axis: step, **values})

    def finish(self, end: RunEnd) -> None:
        """See Target."""
        self._run.finish(exit_code=0 if end in ("FINISHED", "RUNNING") else 1)


class TensorboardTarget:
    """One more event file in the run's folder for each attempt."""

    def __init__(self, orders: MirrorOrders, mirror: TensorboardMirror) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = Path(mirror.dir or orders.folder) / orders.experiment_id
        self._writer = EventFileWriter(str(self._folder))

    def start(self) -> str:
        """See Target."""
        return str(self._folder)

    def write(self, points: Sequence[Point]) -> None:
        """See Target."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, step, ts, value in points:
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            self._writer.add_event(Event(wall_time=ts, step=step, summary=summary))
        self._writer.flush()

    def finish(self, end: RunEnd) -> None:
        """See Target."""
        self._writer.close()
