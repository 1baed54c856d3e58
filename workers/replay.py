"""`python -m workers.replay OUTPUT STEP`: trains a stored step of reinforcement learning again and compares.

    checkpoint of step c < STEP ──> steps c+1 … STEP from their stored rollouts ──> metrics beside the logged ones

c is the newest checkpoint before the step that is still there; without one, RL's beginning: the model that SFT
exported, or the base model. Nothing is written to OUTPUT; checkpoint or model are copied to the folder for temporary
files. Exit 0 if all metrics agree, 1 if some do not, 2 if it cannot be done.

One process does what the run's ranks did together, so that a run of one rank is repeated to the bit on the same machine
and the same number of threads, and others up to rounding.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec

from service.contract.spec import ExperimentSpec, ModelSpec
from workers.actors.trainer import Trainer
from workers.checkpoints import MANIFEST, checkpoint_name
from workers.config_error import ConfigError
from workers.stages.rollout_store import StoredStep, load_step

_EQUAL, _DIFFERENT, _IMPOSSIBLE = 0, 1, 2
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
"""Differences within either are rounding."""


class CannotReplay(Exception):
    """Something that the replay needs is not in the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One metric, as it was logged and as it came out again."""

    name: str
    logged: float
    again: float

    @property
    def agrees(self) -> bool:
        """Whether they differ by rounding only."""
        return math.isclose(self.logged, self.again, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def replay(output_dir: str, step: int) -> list[Replayed]:
    """Train `step` again from what is stored below `output_dir`, a folder or fsspec URL.

    Raises CannotReplay if rollouts, checkpoint or model are missing, ConfigError if the trainer cannot work with them.
    """
    wanted = _load(output_dir, step)
    start = _newest_checkpoint_before(output_dir, step)
    with TemporaryDirectory(prefix="sedray-replay-") as scratch:
        trainer = _trainer(output_dir, wanted.spec, Path(scratch), start)
        again: Mapping[str, float] = {}
        for number in range(start + 1, step + 1):
            stored = wanted if number == step else _load(output_dir, number)
            assert stored.spec.rl is not None, "only such a stage stores steps"
            again = trainer.rl_step(number, stored.samples, temperature=stored.spec.rl.temperature)
    return [Replayed(name=name, logged=wanted.metrics[name], again=again[name]) for name in wanted.metrics]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.replay", description="Train a stored RL step again.")
    parser.add_argument("output", help="the experiment's output folder or URL")
    parser.add_argument("step", type=int, help="RL step, from 1")
    asked = parser.parse_args(arguments)
    try:
        found = replay(asked.output, asked.step)
    except (CannotReplay, ConfigError) as error:
        print(error, file=sys.stderr)
        return _IMPOSSIBLE
    for metric in found:
        verdict = "" if metric.agrees else "  differs"
        print(f"{metric.name:<36} logged {metric.logged:<24.17g} again {metric.again:<24.17g}{verdict}")
    return _EQUAL if all(metric.agrees for metric in found) else _DIFFERENT


def _load(output_dir: str, step: int) -> StoredStep:
    try:
        return load_step(output_dir, step)
    except FileNotFoundError as error:
        raise CannotReplay(
            f"the rollouts of RL step {step} are not stored below {output_dir}; replay needs those of all steps since "
            "the checkpoint before it: run with rl.rollout_store_steps 1"
        ) from error
    except ValueError as error:
        raise CannotReplay(str(error)) from error


def _newest_checkpoint_before(output_dir: str, step: int) -> int:
    """Its step; 0 if there is none, which is where RL begins."""
    filesystem, root = fsspec.core.url_to_fs(_checkpoint_root(output_dir))
    return next(
        (done for done in range(step - 1, 0, -1) if filesystem.exists(f"{root}/{checkpoint_name(done)}/{MANIFEST}")), 0
    )


def _trainer(output_dir: str, spec: ExperimentSpec, scratch: Path, start: int) -> Trainer:
    """A trainer that is about to train the step after `start`."""
    assert spec.rl is not None, "only such a stage stores steps"
    root = scratch / "checkpoints"
    root.mkdir()
    model = spec.model
    if start:
        # A copy of this one alone: a stage takes up at the newest that it finds.
        name = checkpoint_name(start)
        _copy(f"{_checkpoint_root(output_dir)}/{name}", root / name)
    elif spec.sft is not None:
        model = _model_after_sft(output_dir, spec.model, scratch)
    demand = spec.resources.trainer
    trainer = Trainer(
        model=model, seed=spec.seed, num_cpus=demand.num_cpus, num_gpus=demand.num_gpus, chats=spec.chats()
    )
    trainer.load()
    plan = trainer.prepare_rl(spec.rl, str(root))
    if plan.first_step != start + 1:
        reasons = "; ".join(checkpoint.reason for checkpoint in plan.skipped_checkpoints)
        raise CannotReplay(f"checkpoint {checkpoint_name(start)} is not whole: {reasons}")
    return trainer


def _model_after_sft(output_dir: str, model: ModelSpec, scratch: Path) -> ModelSpec:
    if model.lora is not None or model.dtype != "float32":
        raise CannotReplay(
            "there is no checkpoint of RL before the step, and the model that SFT exported is not what RL began with: "
            "with adapters or bfloat16 it is merged or rounded; replay a step after the first checkpoint that is kept"
        )
    folder = scratch / "model"
    _copy(f"{output_dir.rstrip('/')}/models/sft", folder)
    return model.model_copy(update={"path": str(folder)})


def _copy(url: str, target: Path) -> None:
    filesystem, path = fsspec.core.url_to_fs(url)
    if not filesystem.isdir(path):
        raise CannotReplay(f"{url} is not there, and the replay begins with it")
    filesystem.get(f"{path}/", f"{target}/", recursive=True)


def _checkpoint_root(output_dir: str) -> str:
    return f"{output_dir.rstrip('/')}/checkpoints/rl"


if __name__ == "__main__":
    sys.exit(main())
