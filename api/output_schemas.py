"""What the API answers about checkpoints, exported models and what a run took."""

from datetime import datetime
from typing import Literal

from service.contract.stages import StageName
from service.contract.strict_model import WireModel


class OutputFileOut(WireModel):
    """One file."""

    path: str
    num_bytes: int


class OutputOut(WireModel):
    """A checkpoint or an exported model."""

    id: str
    """`sft.step-00000228`, `rl.model`."""
    kind: Literal["checkpoint", "model"]
    stage: StageName
    step: int | None
    is_whole: bool
    """Whether its writer has come to the end."""
    modified_at: datetime | None
    num_bytes: int
    files: list[OutputFileOut]


class OutputPage(WireModel):
    """All of an experiment, in the order of stages and steps."""

    location: str
    """Folder or URL of the experiment's outputs, as the service and the workers name it."""
    items: list[OutputOut]


class PhaseSpend(WireModel):
    """What a phase took."""

    phase: str
    wall_s: float
    cpu_s: float
    gpu_s: float
    is_part: bool
    """Whether it is a part of the phase before it, which counts it already."""


class Spend(WireModel):
    """What an experiment took so far, in device-seconds."""

    phases: list[PhaseSpend]
    """Of finished stages that it ran itself, at the devices that an attempt holds; stages taken over cost nothing."""
    held_cpu_s: float
    held_gpu_s: float
    """By all its attempts, from admission until Ray was seen to have let go."""
    lost_cpu_s: float
    lost_gpu_s: float
    """Of it, what attempts held that ended by a failure, beyond the stages that they finished."""
