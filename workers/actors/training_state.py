"""What a training checkpoint holds: weights, optimizer, generators, and facts that bind it to its stage."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.actors.rank_group import RankGroup
from workers.actors.tensor_storage import load_tensors, save_tensors, tensor_names
from workers.checkpoint_draft import begin_draft
from workers.checkpoints import (
    Checkpoint,
    SkippedCheckpoint,
    checkpoint_name,
    load_checkpoint,
    load_latest,
    prune,
)
from workers.config_error import ConfigError
from workers.determinism import random_states, restore_random_states

MODEL = "model."
"""Begins the names of the model's tensors in a checkpoint."""
NO_TENSORS: Mapping[str, Tensor] = {}
NO_FILES: Mapping[str, bytes] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The outcome of looking for a checkpoint."""

    facts: dict[str, Any] | None
    """Those given to `save_training_state`, or None: nothing was found and nothing was changed."""
    location: str | None
    skipped: tuple[SkippedCheckpoint, ...]
    checkpoint: Checkpoint | None = None


def fingerprint(spec: BaseModel, **more: object) -> str:
    """A digest of all that must be equal for a checkpoint to be continued."""
    parts = [spec.model_dump_json(), *(f"{name}={value}" for name, value in sorted(more.items()))]
    return sha256("\n".join(parts).encode()).hexdigest()


def save_training_state(
    root: str,
    step: int,
    policy: PolicyModel,
    optimization: Optimization,
    facts: Mapping[str, Any],
    *,
    keep: int,
    protect: Collection[str] = (),
    more: Mapping[str, Tensor] = NO_TENSORS,
    more_files: Mapping[str, bytes] = NO_FILES,
) -> str:
    """Write the checkpoint after `step`; returns its folder or URL.

    `more` are tensors of the stage itself, under names of its own, and `more_files` files beside them, the same on all
    ranks. All other checkpoints are deleted but the newest
    `keep` and those named in `protect`.
    """
    ranks = policy.ranks
    draft = ranks.from_first(lambda: begin_draft(root, checkpoint_name(step)))

    def commit() -> str:
        others = {name: draft.write(name, content) for name, content in more_files.items()}
        location = draft.commit(files | others, {**facts, "step": step, "num_ranks": ranks.num_ranks})
        prune(root, keep, protect=protect)
        return location

    tensors = _model_tensors(policy) | _optimizer_tensors(optimization) | _generators(ranks) | dict(more)
    try:
        files = save_tensors(tensors, draft, ranks)
        return ranks.from_first(commit)
    finally:
        if ranks.is_first:
            draft.discard()


def resume_training_state(
    root: str,
    expected: str,
    policy: PolicyModel,
    optimization: Optimization,
    *,
    more: Mapping[str, Tensor] = NO_TENSORS,
) -> Resumed:
    """Load the newest whole checkpoint below `root` into model, optimizer, generators and the stage's own tensors.

    Raises ConfigError if it was written under another fingerprint than `expected`: its steps mean something else.
    """
    ranks = policy.ranks
    # Checked once, by rank 0, and equal for all: a file system may show two ranks different things.
    found = ranks.from_first(lambda: load_latest(root))
    checkpoint = found.checkpoint
    if checkpoint is None:
        return Resumed(facts=None, location=None, skipped=found.skipped)
    if checkpoint.facts.get("fingerprint") != expected:
        raise ConfigError(
            f"checkpoint {checkpoint.location} belongs to another specification, seed or data set; "
            "submit the changed experiment as a new one, or restore the data that it began with"
        )
    model = _model_tensors(policy, checkpoint)
    generators = {name: state for name, state in _generators(ranks).items() if name in tensor_names(checkpoint)}
    load_tensors(model | _optimizer_tensors(optimization) | generators | dict(more), checkpoint, ranks)
    if generators:
        restore_random_states({name.rpartition(".")[2]: state for name, state in generators.items()})
    return Resumed(facts=checkpoint.facts, location=checkpoint.location, skipped=found.skipped, checkpoint=checkpoint)


def load_weights(root: str, step: int, policy: PolicyModel) -> None:
    """Load the weights of the checkpoint after `step`, and nothing else of it.

    Raises DamagedCheckpoint, the weights as they were, unless it is there and verifies.
    """
    ranks = policy.ranks
    checkpoint = ranks.from_first(lambda: load_checkpoint(root, checkpoint_name(step)))
    load_tensors(_model_tensors(policy, checkpoint), checkpoint, ranks)


def _optimizer_tensors(optimization: Optimization) -> dict[str, Tensor]:
    return {f"optimizer.{name}": tensor for name, tensor in optimization.state().items()}


def _model_tensors(policy: PolicyModel, checkpoint: Checkpoint | None = None) -> dict[str, Tensor]:
    """The model's state by its names in checkpoints. Raises ConfigError if `checkpoint` holds another one's."""
    tensors = {f"{MODEL}{name}": tensor for name, tensor in policy.state().items()}
    stored = tensors.keys() if checkpoint is None else tensor_names(checkpoint)
    if differing := tensors.keys() ^ {name for name in stored if name.startswith(MODEL)}:
        raise ConfigError(
            f"the checkpoint is of another model: {len(differing)} tensors are only here or only there, such as "
            f"{min(differing).removeprefix(MODEL)}; submit the changed experiment as a new one"
        )
    return tensors


def _generators(ranks: RankGroup) -> dict[str, Tensor]:
    """The states of this rank's generators, now. On more ranks than before the further ones keep their first states."""
    return {f"generators.{ranks.rank}.{device}": state for device, state in random_states().items()}
