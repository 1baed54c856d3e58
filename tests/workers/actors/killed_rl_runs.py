"""Reinforcement learning in driver processes that can be killed at any moment and followed by another.

Real trainer, real checkpoints, the real loop; see `bandit_world`. A process reports step by step as a driver does, and
notes what it asks the engine and which prompts it trains.
"""

import json
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from service.contract.spec import ExperimentSpec
from tests.workers.bandit_world import BanditRun, Points
from workers.rollouts import Completion, GenerationRequest, SamplingParameters
from workers.stages.rollouts_ahead import RolloutsAhead
from workers.stages.step_rollouts import StepRollouts

_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(["tests.workers.bandit_world"])
_MEASURED = ("timing_s/", "perf/", "async/")
"""Begins the names of metrics that depend on when things happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RlRunUnderTest:
    """One stage: all of its attempts share the folder."""

    folder: Path
    model_folder: Path
    spec: ExperimentSpec
    delay_s: float
    """Of each generation."""

    def start(self) -> BaseProcess:
        """An attempt."""
        process = _FORK_SERVER.Process(target=_attempt, args=(self,), daemon=True)
        process.start()
        return process

    def reports(self) -> dict[int, dict[str, float]]:
        """Metrics by step, the first value of each; asserts that a point reported again says the same."""
        known: dict[int, dict[str, float]] = {}
        for entry in self.entries("points"):
            for name, value in entry["values"].items():
                told = known.setdefault(entry["step"], {}).setdefault(name, value)
                assert told == value, f"{name} of step {entry['step']} was reported with another value"
        return known

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """What the attempts have noted, in order."""
        lines = (self.folder / "log.jsonl").read_text().splitlines() if (self.folder / "log.jsonl").exists() else []
        return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


class _Log(Points):
    def __init__(self, run: RlRunUnderTest) -> None:
        super().__init__()
        self._path = run.folder / "log.jsonl"

    def points(self, step: int, values: Mapping[str, float]) -> None:
        super().points(step, values)
        kept = {name: value for name, value in values.items() if not name.startswith(_MEASURED)}
        self.write("points", step=step, values=kept)

    def write(self, kind: str, **facts: Any) -> None:
        """In one write, so that a killed process leaves whole lines."""
        line = json.dumps({"kind": kind, "attempt": os.getpid(), **facts}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def _attempt(run: RlRunUnderTest) -> None:
    log = _Log(run)
    attempt = BanditRun(run.spec, run.model_folder, run.folder, reports=log, delay_s=run.delay_s)
    _note_requests(attempt, log)
    _note_steps(log)
    log.write("begun")
    attempt.run()
    assert attempt.trainer.trainer is not None
    attempt.trainer.trainer.write_weights(str(run.folder / "final.safetensors"))


def _note_requests(attempt: BanditRun, log: _Log) -> None:
    generate = attempt.engine.generate

    def noted(requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        completions = generate(requests, sampling)
        log.write("generated", seeds=[request.seed for request in requests])
        return completions

    attempt.engine.generate = noted  # type: ignore[method-assign]


def _note_steps(log: _Log) -> None:
    take = RolloutsAhead.take

    def noted(source: RolloutsAhead, step: int) -> StepRollouts:
        rollouts = take(source, step)
        uids = [group.prompt.uid for group in rollouts.groups]
        log.write("taken", step=step, uids=uids)
        return rollouts

    RolloutsAhead.take = noted  # type: ignore[method-assign]
