"""Supervised training in processes of their own, which can be killed at any moment and followed by another.

It knows the trainer by its public methods only. A process does what a driver does: train in slices, report after each.
"""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from service.contract.stages import SftSpec
from tests.workers.tiny_model import make_trainer
from workers.actors.trainer_results import StepMetrics

SLICE_STEPS = 3
_DEADLINE_S = 300.0
"""Far above what an attempt takes, which is seconds unless the machine has much else to do."""
_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(["tests.workers.tiny_model"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SftRunUnderTest:
    """One supervised stage: all of its attempts share the folder."""

    folder: Path
    model_folder: Path
    spec: SftSpec

    @property
    def checkpoints(self) -> Path:
        """Where the trainer keeps its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def weights(self) -> Path:
        """The final weights, written by the attempt that ends the stage."""
        return self.folder / "final.safetensors"

    def reports(self) -> dict[int, dict[str, float]]:
        """Metrics by step as the service would have them; asserts that a point reported twice says the same."""
        known: dict[int, dict[str, float]] = {}
        for line in (self.folder / "reports.jsonl").read_text().splitlines():
            step, values = json.loads(line)
            for name, value in values.items():
                told = known.setdefault(step, {}).setdefault(name, value)
                assert told == value, f"{name} of step {step} was reported with another value"
        return known

    def start(self, *, die_after_step: int | None = None) -> BaseProcess:
        """An attempt; it kills itself after the slice with `die_after_step`, before it reports it."""
        process = _FORK_SERVER.Process(target=_attempt, args=(self, die_after_step), daemon=True)
        process.start()
        return process

    def finish(self) -> None:
        """An attempt that nobody disturbs."""
        assert _ended(self.start()) == 0


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """SIGKILL so many seconds from now; False if the process has ended well before."""
    process.join(seconds)
    return _killed(process)


def kill_when(process: BaseProcess, condition: Callable[[], bool]) -> bool:
    """SIGKILL at the moment when the condition holds; False if the process has ended well before."""
    limit = time.monotonic() + _DEADLINE_S
    while process.is_alive() and not condition():
        assert time.monotonic() < limit, "neither the moment nor the end of the process came"
    return _killed(process)


def _killed(process: BaseProcess) -> bool:
    process.kill()
    exit_code = _ended(process)
    assert exit_code in (0, -signal.SIGKILL), "the attempt failed by itself"
    return exit_code != 0


def _ended(process: BaseProcess) -> int | None:
    process.join(_DEADLINE_S)
    return process.exitcode


def _attempt(run: SftRunUnderTest, die_after_step: int | None) -> None:
    trainer = make_trainer(run.model_folder)
    plan = trainer.prepare_sft(run.spec, str(run.checkpoints))
    _report(run, plan.carried_metrics)
    while (made := trainer.sft_steps(max_steps=SLICE_STEPS, max_seconds=_DEADLINE_S)).steps:
        if made.steps[-1].step == die_after_step:
            os.kill(os.getpid(), signal.SIGKILL)
        _report(run, (*made.steps, *made.evaluations))
    trainer.end_sft()
    trainer.write_weights(str(run.weights))


def _report(run: SftRunUnderTest, steps: Iterable[StepMetrics]) -> None:
    """In one write, so that a killed process leaves whole lines."""
    lines = "".join(json.dumps([step.step, step.values]) + "\n" for step in steps)
    descriptor = os.open(run.folder / "reports.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, lines.encode())
    os.close(descriptor)
