"""What follows from a study before anything runs: how many experiments, what they share, and what they may cost."""

from service.contract.stages import StageName
from service.contract.strict_model import WireModel


class StageShare(WireModel):
    """One stage over all experiments of a study."""

    stage: StageName
    num_runs: int
    """Experiments that have it."""
    num_distinct: int
    """As often it has to be run, at least: equal ones are taken over."""


class StudyPlan(WireModel):
    """Derived numbers of a study as it stands. Bounds follow from the specification; estimates from finished runs."""

    num_planned: int
    """Experiments that the specification stands for."""
    num_experiments: int
    """Those that are made: `budget.max_experiments` may be smaller."""
    arms: list[str]
    """With the values of the factors, the baseline's too."""
    stages: list[StageShare]
    max_gpu_hours: float
    """If each experiment took its whole `max_runtime_s` once, and shared nothing."""
    max_cpu_hours: float
    gpu_hours: float | None
    """As finished stages of the project would have it; None where there are none like these."""
    cpu_hours: float | None
    duration_s: float | None
    """From the first start to the last end, if nobody else uses the cluster; None where it cannot be told."""
    basis: str
    """What the estimates rest on."""
    unknown: list[str]
    """What cannot be told beforehand, and why."""
    warnings: list[str]
    """What is allowed but probably not meant."""
