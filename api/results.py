"""What an experiment's stages left behind, as command line and page both show it."""

from collections.abc import Mapping
from typing import Any

from api.schemas import Experiment
from service.contract.messages import StageResult
from service.contract.stages import StageName

POINT_LABELS: dict[StageName, str] = {
    "evaluate_base": "before SFT",
    "evaluate_after_sft": "after SFT",
    "evaluate_after_rl": "after RL",
}
"""The evaluations, in the order of the run."""

SFT_FACTS = {
    "num_samples": "samples trained",
    "num_dropped": "samples dropped: longer than max_length",
    "num_truncated": "samples truncated to max_length",
    "num_held_out": "samples held out",
    "tau": "tau",
    "tau_num_tokens": "tokens behind tau",
    "exported_step": "step whose weights were kept",
    "best_checkpoints": "best checkpoints",
    "resumed_from": "resumed from",
    "skipped_checkpoints": "checkpoints found damaged",
    "skipped_best_checkpoints": "better checkpoints found damaged",
    "data_sha256": "data (SHA-256)",
    "tokenizer_sha256": "tokenizer (SHA-256)",
    "template_sha256": "chat template (SHA-256)",
    "lineage_sha256": "lineage: all three (SHA-256)",
}
"""What people want to know of a stage of supervised fine-tuning: keys of its result's detail."""


def evaluations_of(experiment: Experiment) -> dict[StageName, StageResult]:
    """The finished evaluations by stage, in the order of `POINT_LABELS`."""
    by_stage = {result.stage: result for result in experiment.stage_results}
    return {stage: by_stage[stage] for stage in POINT_LABELS if stage in by_stage}


def metric_names_of(results: list[StageResult]) -> list[str]:
    """Every metric that one of the results has, once, in the order in which the stages wrote them."""
    return list(dict.fromkeys(name for result in results for name in result.metrics))


def sft_facts(experiment: Experiment) -> dict[str, str]:
    """The finished stage's facts as text by label; empty before its end, and without what does not apply."""
    detail = next((result.detail for result in experiment.stage_results if result.stage == "sft"), {})
    return {label: _shown_fact(detail[key]) for key, label in SFT_FACTS.items() if detail.get(key) not in (None, [])}


def _shown_fact(fact: Any) -> str:
    match fact:
        case float():
            return f"{fact:.4g}"
        case list():
            return ", ".join(map(_shown_fact, fact))
        case {"step": step, "value": value}:
            return f"step {step} ({_shown_fact(value)})"
        case Mapping():
            return " ".join(map(str, fact.values()))
    return str(fact)


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
