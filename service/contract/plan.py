"""What follows from a specification before anything runs: the numbers that people get wrong."""

from service.contract.stages import StageName
from service.contract.strict_model import WireModel


class StagePlan(WireModel):
    """Derived numbers of one stage."""

    stage: StageName
    num_steps: int
    numbers: dict[str, float | int | str]
    """By name: `samples`, `steps_per_epoch`, `prompts_per_step`, `samples_per_step`, `updates_per_step`, …"""


class ExperimentPlan(WireModel):
    """Derived numbers of the whole experiment."""

    stages: list[StagePlan]
    num_cpus: float
    num_gpus: float
    warnings: list[str]
    """What is allowed but probably not meant."""
