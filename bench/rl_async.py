"""Rollouts ahead of the trainer against rollouts in step: `python -m bench.rl_async [--json FILE] [--seeds N ...]`.

The built-in Countdown task (examples/countdown) from its base model, the same number of steps in both modes, one engine
and one trainer with a core each. For each seed the two modes run one after the other, each as the driver of a real
attempt runs it, with Ray, trainer actor and vLLM; only what the driver would tell the service is caught here.

    async_vs_sync_steps_per_hour    medians over the seeds, of the steps behind the first three

Beside it stand what makes the figure worth something: the reward that both end with, on 256 problems that neither has
seen, and how long trainer and engine had nothing to do.
"""

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

from pydantic import JsonValue

from bench.rows import Row
from service.contract.messages import RolloutSample, StageResult, StartReply, TokenView
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from tests.workers.ray_head import ray_environment, ray_head

logger = logging.getLogger(__name__)

ROW = "async_vs_sync_steps_per_hour"
SEEDS = (11, 12, 13)
NUM_STEPS = 50
_COUNTDOWN = Path(__file__).parents[1] / "examples" / "countdown"
_NUM_WARM_UP = 3
"""Steps that are not counted: the first ones wait for threads, caches and the other side."""
_FINAL_REWARD = "eval/test/avg@16"

Mode = Literal["sync", "async"]
_MODES: Mapping[Mode, Mapping[str, Any]] = {
    "sync": {"mode": "sync"},
    "async": {"mode": "async", "max_staleness": 1},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run."""

    mode: Mode
    seed: int
    steps_per_hour: float
    final_reward: float
    """On problems that neither has seen."""
    train_reward: float
    """Mean over the completions of the last ten steps."""
    seconds: dict[str, float]
    """Means over the counted steps by phase."""
    staleness: float
    """Mean age of the trained groups."""


class Caught:
    """`roles.Reports` and what else the driver tells: keeps the metrics, and when a step was over."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.ended_at: dict[int, float] = {}
        self.final: dict[str, float] = {}

    def points(self, step: int, values: Mapping[str, float]) -> None:
        """Of a step or of another place; only steps and evaluations count here."""
        if "timing_s/step" in values:
            self.steps[step], self.ended_at[step] = dict(values), time.monotonic()
        self.final |= values

    def rollouts(self, samples: Iterable[RolloutSample]) -> None:
        """Not kept."""

    def token_views(self, views: Iterable[TokenView]) -> None:
        """Not kept."""

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        """An engine that was replaced, say, would spoil the figure."""
        logger.warning("%s: %s", kind, message)

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        """Not kept."""

    def stage_result(self, result: StageResult) -> None:
        """Not kept."""

    def settle(self, deadline_s: float) -> None:
        """Nothing is under way."""


class _NoInterrupts:
    """Nobody cancels a benchmark."""

    def check(self) -> None:
        """Go on."""

    def listen(self) -> None:
        """There is nothing to hear."""


def make_spec(mode: Mode, seed: int, num_steps: int) -> ExperimentSpec:
    """Steps whose rollouts take about as long as training on them, on one core each: two updates by each step's
    completions."""
    data, reward = _COUNTDOWN / "data", {"type": "countdown"}
    rl = {
        "data": {"path": str(data / "rl.jsonl")},
        "reward": reward,
        # To nothing at the end, so that the last policy is not a matter of its last steps' luck.
        "optimizer": {"learning_rate": 4.0e-4, "lr_schedule": "linear"},
        "num_steps": num_steps,
        "num_prompts_per_step": 64,
        "num_generations": 8,
        "num_iterations": 2,
        "max_completion_length": 16,
        "save_steps": num_steps,
    }
    evaluation = {
        "data": {"path": str(data / "test.jsonl")},
        "reward": reward,
        "points": ["after_rl"],
        "num_generations": 16,
        "max_completion_length": 16,
    }
    return ExperimentSpec.model_validate(
        {
            "name": f"{mode} {seed}",
            "seed": seed,
            "model": {"path": str(_COUNTDOWN / "base"), "max_model_len": 32},
            "rl": {**rl, **_MODES[mode]},
            "evaluation": evaluation,
        }
    )


def measure(mode: Mode, seed: int, num_steps: int) -> Measured:
    """One run from the base model to its last evaluation."""
    spec, caught = make_spec(mode, seed, num_steps), Caught()
    with TemporaryDirectory(prefix="sedray-bench-") as folder, ray_head(math.ceil(spec.resources.num_cpus)) as address:
        os.environ.update(ray_environment(), RAY_ADDRESS=address)
        from workers.pipeline.driver import drive

        orders = StartReply(
            experiment_id="bench",
            attempt_id=f"bench-{os.getpid()}-{mode}-{seed}",
            attempt_number=1,
            spec=spec,
            output_dir=folder,
            completed_stages=[],
            report_interval_s=60.0,
        )
        drive(orders, cast(Any, caught), cast(Any, _NoInterrupts()))
    return measured(mode, seed, caught)


def measured(mode: Mode, seed: int, caught: Caught) -> Measured:
    """What a run has come to."""
    counted = [values for step, values in sorted(caught.steps.items()) if step > _NUM_WARM_UP]
    wall_s = caught.ended_at[max(caught.ended_at)] - caught.ended_at[_NUM_WARM_UP]
    names = [name for name in counted[0] if name.startswith("timing_s/")]
    return Measured(
        mode=mode,
        seed=seed,
        steps_per_hour=3600.0 * len(counted) / wall_s,
        final_reward=caught.final[_FINAL_REWARD],
        train_reward=fmean(values["reward/mean"] for values in counted[-10:]),
        seconds={name.removeprefix("timing_s/"): fmean(values[name] for values in counted) for name in names},
        staleness=fmean(values.get("async/staleness/mean", 0.0) for values in counted),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both modes under all seeds."""

    runs: list[Measured] = field(default_factory=list)

    def of(self, mode: Mode) -> list[Measured]:
        """The runs of a mode."""
        return [run for run in self.runs if run.mode == mode]

    @property
    def row(self) -> Row:
        """Medians over the seeds."""
        ahead, in_step = (median(run.steps_per_hour for run in self.of(mode)) for mode in ("async", "sync"))
        return Row(ours=ahead, peer=in_step, unit="steps/h")


def compare(seeds: Sequence[int] = SEEDS, *, num_steps: int = NUM_STEPS) -> Comparison:
    """Run all; minutes for each seed."""
    runs = []
    for index, seed in enumerate(seeds):
        # Who goes first alternates: what else the machine has to do changes slowly.
        modes: tuple[Mode, ...] = ("async", "sync") if index % 2 else ("sync", "async")
        for mode in modes:
            runs.append(run := measure(mode, seed, num_steps))
            _show(run)
    return Comparison(runs=runs)


def async_rows(seeds: Sequence[int] = SEEDS, *, num_steps: int = NUM_STEPS) -> dict[str, Row]:
    """For `bench.rl`."""
    return {ROW: compare(seeds, num_steps=num_steps).row}


def _show(run: Measured) -> None:
    seconds = run.seconds
    logger.info(
        "%-5s seed %2d %8.0f steps/h  reward %.3f (train %.3f)  step %.2f s: gen %.2f, update %.2f, sync %.2f; "
        "idle: trainer %.2f, engine %.2f; staleness %.2f",
        *(run.mode, run.seed, run.steps_per_hour, run.final_reward, run.train_reward, seconds["step"], seconds["gen"]),
        *(seconds["update_actor"], seconds["update_weights"], seconds["trainer_idle"], seconds["rollout_idle"]),
        run.staleness,
    )


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--json", type=Path, help="file for the row and the runs behind it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = compare(arguments.seeds, num_steps=arguments.steps)
    rewards = {
        mode: {
            "final_reward": fmean(run.final_reward for run in found.of(mode)),
            "train_reward": fmean(run.train_reward for run in found.of(mode)),
        }
        for mode in _MODES
    }
    logger.info("%s %.2f (%.0f against %.0f)", ROW, found.row.ratio, found.row.ours, found.row.peer)
    logger.info("rewards: %s; load %.1f", rewards, os.getloadavg()[0])
    if arguments.json:
        report = {ROW: found.row.as_json(), "rewards": rewards, "runs": [asdict(run) for run in found.runs]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
