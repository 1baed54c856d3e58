"""An experiment's evaluations side by side, as command line and page both show them."""

from api.schemas import Experiment
from service.contract.messages import StageResult
from service.contract.stages import StageName

POINT_LABELS: dict[StageName, str] = {
    "evaluate_base": "before SFT",
    "evaluate_after_sft": "after SFT",
    "evaluate_after_rl": "after RL",
}
"""The evaluations, in the order of the run."""


def evaluations_of(experiment: Experiment) -> dict[StageName, StageResult]:
    """The finished evaluations by stage, in the order of `POINT_LABELS`."""
    by_stage = {result.stage: result for result in experiment.stage_results}
    return {stage: by_stage[stage] for stage in POINT_LABELS if stage in by_stage}


def metric_names_of(results: list[StageResult]) -> list[str]:
    """Every metric that one of the results has, once, in the order in which the stages wrote them."""
    return list(dict.fromkeys(name for result in results for name in result.metrics))


def shown_bytes(num_bytes: int) -> str:
    """In the unit that leaves one to four digits before the point."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if num_bytes >= 1024**power:
            return f"{num_bytes / 1024**power:.1f} {unit}"
    return f"{num_bytes} B"


def shown_number(value: float | None) -> str:
    """Three decimals, one from 10 on; a dash for what was not measured."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
