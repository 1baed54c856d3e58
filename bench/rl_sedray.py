"""Our RL stage on a workload, one step a turn: `python -m bench.rl_sedray FOLDER`.

The driver of a real attempt (`workers.pipeline.driver.drive`) with a Ray head, trainer actor and rollout engine of its
own; only what the driver would send to the service is caught here. A step ends where its metrics are reported.
"""

import argparse
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil
from pydantic import JsonValue

from bench.turns import Turns
from service.contract.messages import RolloutSample, StageResult, StartReply, TokenView
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from tests.workers.ray_head import ray_environment, ray_head


class _NoMoreTurns(Exception):
    """The benchmark has seen enough."""


class TakesTurns:
    """`roles.Reports` that lets each step wait for its turn; the first one waits before it begins."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._began = False

    def points(self, step: int, values: Mapping[str, float]) -> None:
        """A step is over."""
        if "timing_s/step" in values:
            self._turns.note({name: value for name, value in values.items() if name.startswith("timing_s/")})
            self._wait()

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        """The first step begins."""
        if phase == "generating" and not self._began:
            self._began = True
            self._wait()

    def rollouts(self, samples: Iterable[RolloutSample]) -> None:
        """Not kept."""

    def token_views(self, views: Iterable[TokenView]) -> None:
        """Not kept."""

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        """Not kept."""

    def stage_result(self, result: StageResult) -> None:
        """Not kept."""

    def settle(self, deadline_s: float) -> None:
        """Nothing is under way."""

    def _wait(self) -> None:
        if not self._turns.next():
            raise _NoMoreTurns


class _NoInterrupts:
    """Nobody cancels a benchmark."""

    def check(self) -> None:
        """Go on."""

    def listen(self) -> None:
        """There is nothing to hear."""


def cpu_of_all_processes() -> float:
    """Seconds of this process and all that it started, actors included."""
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def main() -> None:
    """Starts Ray, runs the stage and takes turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    turns = Turns(cpu_of_all_processes)
    spec = ExperimentSpec.model_validate_json((arguments.folder / "spec.json").read_text())
    orders = StartReply(
        experiment_id="bench",
        attempt_id="bench",
        attempt_number=1,
        spec=spec,
        output_dir=str(arguments.folder / f"output-{os.getpid()}"),
        completed_stages=[],
        report_interval_s=60.0,
    )
    with ray_head(math.ceil(spec.resources.num_cpus)) as address:
        os.environ.update(ray_environment(), RAY_ADDRESS=address)
        from workers.pipeline.driver import drive

        with suppress(_NoMoreTurns):
            drive(orders, cast(Any, TakesTurns(turns)), cast(Any, _NoInterrupts()))


if __name__ == "__main__":
    main()
