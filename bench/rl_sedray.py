"""Our RL stage on a workload, one step a turn: `python -m bench.rl_sedray FOLDER`. A step ends where it is reported."""

import argparse
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from bench.attempt import QuietReporter, run_attempt
from bench.turns import Turns
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName

_PHASES = {
    "timing_s/gen": "generate",
    "timing_s/reward": "rewards",
    "timing_s/update_actor": "train",
    "timing_s/update_weights": "weights to the engine",
}


class _NoMoreTurns(Exception):
    """The benchmark has seen enough."""


class TakesTurns(QuietReporter):
    """Lets each step wait for its turn; the first one waits before it begins."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._began = False

    def points(self, step: int, values: Mapping[str, float]) -> None:
        """A step is over."""
        if "timing_s/step" in values:
            self._turns.mean_length = values["completions/mean_length"]
            self._turns.note({phase: values[name] for name, phase in _PHASES.items() if name in values})
            self._wait()

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        """The first step begins."""
        if phase == "generating" and not self._began:
            self._began = True
            self._wait()

    def _wait(self) -> None:
        if not self._turns.next():
            raise _NoMoreTurns


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
    """Runs the stage and takes turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    turns = Turns(cpu_of_all_processes)
    spec = ExperimentSpec.model_validate_json((folder / "spec.json").read_text())
    with suppress(_NoMoreTurns):
        run_attempt(spec, str(folder / f"output-{os.getpid()}"), TakesTurns(turns))


if __name__ == "__main__":
    main()
