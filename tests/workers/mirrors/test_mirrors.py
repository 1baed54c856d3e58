"""Runs shown in other trackers: the real ones, and such as hang, raise or are missing."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.contract.messages import MetricPoint, StartReply
from service.contract.mirrors import MIRROR_BEHIND, MIRROR_FAILED, MIRROR_FINISHED, MIRROR_STARTED
from service.contract.status import EndReason
from tests.factories import make_spec
from workers.mirrors.mirror import Mirror
from workers.mirrors.mirrors import Mirrors
from workers.mirrors.orders import MirrorOrders

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
pytestmark = pytest.mark.timeout(180)


class Told:
    """The events that came."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []

    def __call__(self, kind: str, message: str, detail: Mapping[str, Any]) -> None:
        self.events.append((kind, message, detail))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events]


def start_reply(folder: Path, number: int, *mirrors: dict[str, Any]) -> StartReply:
    return StartReply(
        experiment_id="exp-1",
        attempt_id=f"att-{number}",
        attempt_number=number,
        spec=make_spec(mirrors=list(mirrors)),
        output_dir=str(folder / "outputs"),
        completed_stages=[],
        report_interval_s=1.0,
    )


def open_mirrors(
    folder: Path, told: Told, *mirrors: dict[str, Any], start: Callable[..., Mirror] | None = None, **keys: Any
) -> Mirrors:
    settings = {"allowed_keys": {}, "environment": {}, **keys} | ({"start": start} if start else {})
    return Mirrors(start_reply(folder, 1, *mirrors), told, work_dir=folder / "work", **settings)


def points(step: int, **values: float) -> list[MetricPoint]:
    return [
        MetricPoint(name=name.replace("_at_", "@"), step=step, value=value, ts=NOW) for name, value in values.items()
    ]


def run_by(command: Sequence[str], **limits: int) -> Callable[..., Mirror]:
    def start(orders: MirrorOrders, tell: Any, home: Path) -> Mirror:
        return Mirror(orders, tell, home=home, command=command, **limits)

    return start


def attempt(folder: Path, mirror: dict[str, Any], reason: EndReason, *steps: int) -> Told:
    """One attempt with a real mirror, from start to end."""
    told = Told()
    mirrors = open_mirrors(folder, told, mirror)
    for step in steps:
        mirrors.points([*points(step, loss=1.0 / step), *points(step, pass_at_8=0.5)])
    mirrors.close(reason, 120.0)
    return told


def test_mlflow_has_one_run_over_all_attempts(tmp_path: Path) -> None:
    where = {"type": "mlflow", "tracking_uri": str(tmp_path / "runs"), "experiment": "team"}
    first = attempt(tmp_path, where, EndReason.PREEMPTED, 1, 2)
    second = attempt(tmp_path, where, EndReason.COMPLETED, 3)
    assert first.kinds == second.kinds == [MIRROR_STARTED, MIRROR_FINISHED], first.events
    [run] = (tmp_path / "runs").glob("*/*/params/sft.batch_size")
    folder = run.parents[1]
    assert run.read_text() == "8"
    at = int(NOW.timestamp() * 1000)
    assert (folder / "metrics" / "loss").read_text().splitlines() == [f"{at} {1 / step} {step}" for step in (1, 2, 3)]
    assert (folder / "metrics" / "pass_at_8").exists() and "status: 3" in (folder / "meta.yaml").read_text()


def test_wandb_offline_leaves_a_run_with_the_experiments_id(tmp_path: Path) -> None:
    told = attempt(tmp_path, {"type": "wandb"}, EndReason.COMPLETED, 1, 2)
    assert told.kinds == [MIRROR_STARTED, MIRROR_FINISHED], told.events
    [written] = (tmp_path / "outputs" / "mirrors" / "wandb").rglob("run-exp-1.wandb")
    assert b"loss" in written.read_bytes()
    assert told.events[-1][2] == {"mirror": "wandb", "num_mirrored": 4, "num_dropped": 0}


def test_tensorboard_has_the_points_of_all_attempts(tmp_path: Path) -> None:
    for steps in ((1, 2), (3,)):
        told = attempt(tmp_path, {"type": "tensorboard", "dir": str(tmp_path / "tb")}, EndReason.COMPLETED, *steps)
        assert told.kinds == [MIRROR_STARTED, MIRROR_FINISHED], told.events
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "tb" / "exp-1"))
    read.Reload()
    assert [(one.step, one.wall_time) for one in read.Scalars("loss")] == [(s, NOW.timestamp()) for s in (1, 2, 3)]


def test_a_mirror_that_hangs_drops_counts_and_is_killed(tmp_path: Path) -> None:
    hanging = run_by([sys.executable, "-c", "import time; time.sleep(600)"], max_waiting=500)
    told = Told()
    mirrors = open_mirrors(tmp_path, told, {"type": "wandb"}, start=hanging)
    for step in range(1, 2001):
        mirrors.points(points(step, a=1.0, b=2.0))
    began = time.monotonic()
    mirrors.close(EndReason.COMPLETED, 0.5)
    assert time.monotonic() - began < 60
    assert told.kinds == [MIRROR_BEHIND, MIRROR_FAILED]
    assert told.events[-1][2]["num_dropped"] > 0 and "killed" in told.events[-1][1]


def test_a_mirror_that_raises_is_told_of_once_with_its_last_lines_and_without_its_key(tmp_path: Path) -> None:
    program = "import sys; print('boom k-123', file=sys.stderr); print('{\"error\": \"no space k-123\"}'); sys.exit(1)"
    told = Told()
    mirrors = open_mirrors(
        tmp_path,
        told,
        {"type": "mlflow", "tracking_uri": "https://mlflow.example.org/", "token_env": "MLFLOW_KEY"},
        start=run_by([sys.executable, "-c", program]),
        allowed_keys={"MLFLOW_KEY": "https://mlflow.example.org"},
        environment={"MLFLOW_KEY": "k-123"},
    )
    deadline = time.monotonic() + 60
    while not told.events and time.monotonic() < deadline:
        time.sleep(0.05)
    mirrors.points(points(1, a=1.0))
    mirrors.close(EndReason.COMPLETED, 5.0)
    assert told.kinds == [MIRROR_FAILED]
    assert "no space ***" in told.events[0][1] and "k-123" not in str(told.events)
    assert told.events[0][2]["last_lines"] == ["boom ***"]


def test_a_tool_that_is_not_installed_is_told_with_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['tensorboard'] = None; from workers.mirrors.process import main; main()"
    told = Told()
    mirrors = open_mirrors(tmp_path, told, {"type": "tensorboard"}, start=run_by([sys.executable, "-c", program]))
    mirrors.close(EndReason.COMPLETED, 60.0)
    assert told.kinds == [MIRROR_FAILED] and "pip install 'sedray[mirrors]'" in told.events[0][1]


@pytest.mark.parametrize(
    ("mirror", "allowed", "environment", "why"),
    [
        ({"type": "wandb", "mode": "online"}, {}, {"WANDB_API_KEY": "k"}, "not among the keys"),
        ({"type": "wandb", "mode": "online"}, {"WANDB_API_KEY": "https://api.wandb.ai"}, {}, "has no WANDB_API_KEY"),
        (
            {"type": "mlflow", "tracking_uri": "https://evil.example.org", "token_env": "MLFLOW_KEY"},
            {"MLFLOW_KEY": "https://mlflow.example.org"},
            {"MLFLOW_KEY": "k"},
            "may be shown to https://mlflow.example.org only",
        ),
    ],
)
def test_a_key_is_used_where_operators_allow_it_only(
    tmp_path: Path, mirror: dict[str, Any], allowed: dict[str, str], environment: dict[str, str], why: str
) -> None:
    told = Told()
    open_mirrors(tmp_path, told, mirror, allowed_keys=allowed, environment=environment).close(EndReason.COMPLETED, 1.0)
    assert told.kinds == [MIRROR_FAILED] and why in told.events[0][1]
