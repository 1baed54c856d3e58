"""What the API answers about the axes below series."""

from datetime import datetime
from typing import Literal

from service.contract.strict_model import WireModel

AxisStage = Literal["sft", "rl", "evaluate"]


class AxisKnotOut(WireModel):
    """One step in every unit that a plot may have below it."""

    step: int
    ts: datetime
    elapsed_s: float
    """Since the experiment's first attempt began."""
    tokens: float
    """Trained so far: label tokens of SFT, completion tokens of RL, both for `evaluate`."""
    cpu_hours: float
    gpu_hours: float
    """Held by all attempts so far."""


class AxisOut(WireModel):
    """The steps of one stage; between two knots values are to be interpolated."""

    stage: AxisStage
    knots: list[AxisKnotOut]


class AxisPage(WireModel):
    """One axis for each stage that has steps, then that of the evaluations, which count the steps of both."""

    axes: list[AxisOut]
