"""What a training checkpoint holds: weights, optimizer, generators, and facts that bind it to its stage."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, BinaryIO

import torch
from pydantic import BaseModel

from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.checkpoints import (
    Checkpoint,
    SkippedCheckpoint,
    checkpoint_name,
    load_checkpoint,
    load_latest,
    prune,
    save_checkpoint,
)
from workers.config_error import ConfigError
from workers.determinism import random_states, restore_random_states


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The outcome of looking for a checkpoint."""

    facts: dict[str, Any] | None
    """Those given to `save_training_state`, or None: nothing was found and nothing was changed."""
    location: str | None
    skipped: tuple[SkippedCheckpoint, ...]


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
) -> str:
    """Write the checkpoint after `step`; returns its folder or URL.

    All others are deleted but the newest `keep` and those named in `protect`.
    """
    files = {
        "model.pt": partial(_dump, policy.state()),
        "optimizer.pt": partial(_dump, optimization.state()),
        "generators.pt": partial(_dump, random_states()),
    }
    location = save_checkpoint(root, checkpoint_name(step), files, {**facts, "step": step})
    prune(root, keep, protect=protect)
    return location


def resume_training_state(root: str, expected: str, policy: PolicyModel, optimization: Optimization) -> Resumed:
    """Load the newest whole checkpoint below `root` into model, optimizer and generators.

    Raises ConfigError if it was written under another fingerprint than `expected`: its steps mean something else.
    """
    found = load_latest(root)
    checkpoint = found.checkpoint
    if checkpoint is None:
        return Resumed(facts=None, location=None, skipped=found.skipped)
    if checkpoint.facts.get("fingerprint") != expected:
        raise ConfigError(
            f"checkpoint {checkpoint.location} belongs to another specification, seed or data set; "
            "submit the changed experiment as a new one, or restore the data that it began with"
        )
    # Read before the first is used, so that a failure changes nothing.
    states = {name: _read(checkpoint, name) for name in ("model.pt", "optimizer.pt", "generators.pt")}
    _take_up(policy, states["model.pt"])
    optimization.restore(states["optimizer.pt"])
    restore_random_states(states["generators.pt"])
    return Resumed(facts=checkpoint.facts, location=checkpoint.location, skipped=found.skipped)


def load_weights(root: str, step: int, policy: PolicyModel) -> None:
    """Load the weights of the checkpoint after `step`, and nothing else of it.

    Raises DamagedCheckpoint, the weights as they were, unless it is there and verifies.
    """
    checkpoint = load_checkpoint(root, checkpoint_name(step))
    _take_up(policy, _read(checkpoint, "model.pt"))


def _read(checkpoint: Checkpoint, file_name: str) -> dict[str, Any]:
    with checkpoint.open(file_name) as stream:
        # Generators live on the CPU; the optimizer moves its state to its parameters' device by itself.
        state: dict[str, Any] = torch.load(stream, map_location="cpu", weights_only=True)
    return state


def _dump(state: dict[str, Any], stream: BinaryIO) -> None:
    torch.save(state, stream)


def _take_up(policy: PolicyModel, state: dict[str, Any]) -> None:
    """Frozen weights and second names of tied ones are in no checkpoint; all else must be."""
    if missing := policy.state().keys() ^ state.keys():
        raise ConfigError(
            f"the checkpoint is of another model: {len(missing)} tensors are only here or only there, such as "
            f"{min(missing)}; submit the changed experiment as a new one"
        )
    policy.model.load_state_dict(state, strict=False)
