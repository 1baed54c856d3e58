"""What a training checkpoint holds: weights, optimizer, generators, and facts that bind it to its stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, BinaryIO

import torch
from pydantic import BaseModel

from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.checkpoints import SkippedCheckpoint, checkpoint_name, load_latest, prune, save_checkpoint
from workers.determinism import random_states, restore_random_states
from workers.model_loading import ConfigError


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
) -> str:
    """Write the checkpoint after `step` and delete all but the newest `keep`. Returns its folder or URL."""
    files = {
        "model.pt": partial(_dump, policy.model.state_dict()),
        "optimizer.pt": partial(_dump, optimization.state()),
        "generators.pt": partial(_dump, random_states()),
    }
    location = save_checkpoint(root, checkpoint_name(step), files, {**facts, "step": step})
    prune(root, keep)
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
    states = {}
    for name in ("model.pt", "optimizer.pt", "generators.pt"):
        with checkpoint.open(name) as stream:
            # Generators live on the CPU; the optimizer moves its state to its parameters' device by itself.
            states[name] = torch.load(stream, map_location="cpu", weights_only=True)
    policy.model.load_state_dict(states["model.pt"])
    optimization.restore(states["optimizer.pt"])
    restore_random_states(states["generators.pt"])
    return Resumed(facts=checkpoint.facts, location=checkpoint.location, skipped=found.skipped)


def _dump(state: dict[str, Any], stream: BinaryIO) -> None:
    torch.save(state, stream)
