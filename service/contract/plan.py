"""What follows from a specification before anything runs: the numbers that people get wrong."""

from typing import Literal

from service.contract.stages import StageName
from service.contract.strict_model import WireModel


class StagePlan(WireModel):
    """Derived numbers of one stage."""

    stage: StageName
    num_steps: int
    """0 where only the run can tell how many records there are."""
    numbers: dict[str, float | int | str]
    """By name: `samples`, `steps_per_epoch`, `prompts_per_step`, `samples_per_step`, `updates_per_step`, …"""


class MemoryPlan(WireModel):
    """What one actor of a role needs at its peak, in bytes, estimated before the run."""

    role: str
    """`trainer` (each rank) or `rollout` (each engine)."""
    stage: str
    """`sft` or `rl`; for `rollout` `all`."""
    parts: dict[str, int]
    """Bytes by name: `parameters`, `gradients`, `optimizer`, `activations`, `loss_chunk`, …"""
    total_bytes: int
    available_bytes: int | None
    """What the role's device has; None while that is unknown."""
    device: Literal["cpu", "gpu"]


class ExperimentPlan(WireModel):
    """Derived numbers of the whole experiment."""

    stages: list[StagePlan]
    num_cpus: float
    num_gpus: float
    memory: list[MemoryPlan] = []
    """Empty where the model's shape is not known."""
    warnings: list[str]
    """What is allowed but probably not meant."""
