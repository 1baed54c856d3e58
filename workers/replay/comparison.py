"""A stored step trained again, and its metrics beside those that were logged."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec

from workers.replay.beginning import Beginning, CannotReplay, find_beginning
from workers.replay.rank_processes import ReplayTrainer, load_trainer
from workers.stages.rollout_store import StoredStep, load_step, stored_step_path

_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
"""Differences within either are rounding."""


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


def replay(output_dir: str, step: int, *, num_ranks: int | None = None) -> list[Replayed]:
    """Train `step` again from what is stored below `output_dir`, a folder or fsspec URL.

    `num_ranks`: processes, as many as the run had ranks if left out. Raises CannotReplay if rollouts, checkpoint or
    model are missing, ConfigError if the trainer cannot work with them, RankLost if a process dies.
    """
    output_dir = output_dir.rstrip("/")
    if step < 1:
        raise CannotReplay(f"steps of RL count from 1, so there is no step {step}")
    wanted = _load(output_dir, step)
    with TemporaryDirectory(prefix="sedray-replay-") as scratch:
        beginning = find_beginning(output_dir, wanted.spec, step, Path(scratch))
        _require_stored(output_dir, beginning, step)
        trainer = load_trainer(wanted.spec, beginning.model, num_ranks or wanted.spec.resources.trainer.num_ranks)
        try:
            _begin(trainer, beginning, wanted)
            for number in range(beginning.step + 1, step):
                _train(trainer, _load(output_dir, number))
            again = _train(trainer, wanted)
        finally:
            trainer.close()
    return [Replayed(name=name, logged=wanted.metrics[name], again=again[name]) for name in wanted.metrics]


def _begin(trainer: ReplayTrainer, beginning: Beginning, wanted: StoredStep) -> None:
    assert wanted.spec.rl is not None, "only such a stage stores steps"
    if beginning.weights is not None:
        trainer.take_weights(*beginning.weights)
    plan = trainer.prepare_rl(wanted.spec.rl, beginning.checkpoint_root)
    assert plan.first_step == beginning.step + 1, "the checkpoint was found whole a moment ago"


def _train(trainer: ReplayTrainer, stored: StoredStep) -> dict[str, float]:
    assert stored.spec.rl is not None, "only such a stage stores steps"
    return trainer.rl_step(stored.step, stored.samples, temperature=stored.spec.rl.temperature)


def _load(output_dir: str, step: int) -> StoredStep:
    try:
        return load_step(output_dir, step)
    except FileNotFoundError as error:
        raise CannotReplay(
            f"the rollouts of RL step {step} are not stored below {output_dir}; rl.rollout_store_steps says which are"
        ) from error
    except ValueError as error:
        raise CannotReplay(str(error)) from error


def _require_stored(output_dir: str, beginning: Beginning, step: int) -> None:
    """All steps between the beginning and the step, before anything is loaded."""
    first = beginning.step
    missing = [number for number in range(first + 1, step) if not _is_stored(output_dir, number)]
    if missing:
        place = f"the checkpoint of step {first}" if first else "RL's beginning"
        raise CannotReplay(
            f"the rollouts of RL step {', '.join(_ranges(missing))} are not stored below {output_dir}: the replay of "
            f"step {step} starts from {place} and must train all steps since"
            + "".join(f"; {reason}" for reason in beginning.passed_over)
            + "; run with rl.rollout_store_steps 1, or replay a step that follows a checkpoint (rl.save_steps)"
        )


def _is_stored(output_dir: str, step: int) -> bool:
    filesystem, path = fsspec.core.url_to_fs(stored_step_path(output_dir, step))
    return bool(filesystem.exists(path))


def _ranges(numbers: Iterable[int]) -> Iterator[str]:
    """`3`, `5-9`: rising numbers without their neighbours."""
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        yield str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"
