"""What determines a stage's result: two stages that agree in all of it need to be run once.

    key of a stage = settings (here, from the specification alone) + content of the files that it names

The worker's code is the third part: it is compared by the worker itself, which alone knows what it runs. Only stages
before reinforcement learning have keys: what follows depends on the moment at which engines answer.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from service.contract.data import DataSource
from service.contract.evaluation import EvaluationSet, EvaluationSpec
from service.contract.rewards import RewardSpec, single_rewards
from service.contract.spec import ExperimentSpec
from service.contract.stages import SftSpec, StageName

_VERSION = 1
"""Rises when a key comes to mean something else."""
_FIXED_REWARDS = frozenset({"countdown", "exact_match", "math_answer", "regex", "json_schema"})
"""Rewards that follow from specification and completion alone; functions, programs and services may change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageIngredients:
    """What a stage is made from."""

    settings_key: str
    """SHA-256 of everything in the specification that counts, but the places of files."""
    paths: tuple[str, ...]
    """Files and folders whose content counts, in a fixed order."""


def reusable_stages(spec: ExperimentSpec) -> dict[StageName, StageIngredients]:
    """The stages that another experiment may have run already, with what they are made from."""
    stages: dict[StageName, StageIngredients] = {}
    names = spec.stage_names()
    if spec.sft is not None and _is_fixed_sampling(spec):
        stages["sft"] = _ingredients(*_sft(spec, spec.sft))
    if spec.evaluation is None or not _all_fixed(spec.evaluation):
        return stages
    if "evaluate_base" in names:
        stages["evaluate_base"] = _ingredients(*_evaluation(spec, spec.evaluation, "evaluate_base"))
    if "evaluate_after_sft" in names and spec.sft is not None and "sft" in stages:
        settings, paths = _evaluation(spec, spec.evaluation, "evaluate_after_sft")
        trained, trained_paths = _sft(spec, spec.sft)
        stages["evaluate_after_sft"] = _ingredients(settings | {"after": trained}, (*paths, *trained_paths))
    return stages


def _sft(spec: ExperimentSpec, sft: SftSpec) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How often it is saved counts only where checkpoints are ranked, to export the best."""
    settings = sft.model_dump(mode="json", exclude={"save_total_limit"})
    if not sft.num_best_checkpoints:
        del settings["save_steps"]
    paths = [spec.model.path]
    for name, data in (("data", sft.data), ("eval_data", sft.eval_data)):
        if data is not None:
            settings[name], path = _without_path(data)
            paths += path
    whole = {
        "stage": "sft",
        "model": spec.model.model_dump(mode="json", exclude={"path", "max_model_len"}),
        "sft": settings,
        "seed": spec.seed,
        "num_ranks": spec.resources.trainer.num_ranks,
        "on_gpu": spec.resources.trainer.num_gpus > 0,
        "chats": [chat.model_dump(mode="json") for chat in spec.chats()],
    }
    if spec.evaluation is not None and spec.evaluation.sft_steps:
        sampled, sampled_paths = _evaluation(spec, spec.evaluation, "sft")
        whole |= {"sampled": sampled, "sft_steps": spec.evaluation.sft_steps}
        paths += sampled_paths
    return whole, tuple(paths)


def _evaluation(
    spec: ExperimentSpec, evaluation: EvaluationSpec, stage: StageName
) -> tuple[dict[str, Any], tuple[str, ...]]:
    sets = [_set(one) for one in evaluation.sets]
    whole = {
        "stage": stage,
        "model": spec.model.model_dump(mode="json", exclude={"path", "gradient_checkpointing"}),
        "evaluation": [settings for settings, _ in sets],
        "seed": spec.seed,
        "tensor_parallel_size": spec.resources.rollout.tensor_parallel_size,
        "on_gpu": spec.resources.rollout.num_gpus > 0,
        "chats": [chat.model_dump(mode="json") for chat in spec.chats()],
    }
    return whole, (spec.model.path, *(path for _, paths in sets for path in paths))


def _set(one: EvaluationSet) -> tuple[dict[str, Any], tuple[str, ...]]:
    settings = one.model_dump(mode="json", include=set(EvaluationSet.model_fields))
    settings["data"], path = _without_path(one.data)
    return settings, path


def _without_path(data: DataSource) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A data set on the hub is named by its commit; of any other the content counts, wherever it lies.

    The name of a `set` stands for settings that are there anyway.
    """
    settings = data.model_dump(mode="json", exclude={"set"})
    if data.is_on_hub:
        return settings, ()
    del settings["path"]
    return settings, (data.path,)


def _ingredients(settings: dict[str, Any], paths: tuple[str, ...]) -> StageIngredients:
    text = json.dumps({"version": _VERSION, **settings}, sort_keys=True)
    return StageIngredients(settings_key=sha256(text.encode()).hexdigest(), paths=paths)


def _is_fixed_sampling(spec: ExperimentSpec) -> bool:
    """Whether what SFT samples on the way, if anything, follows from the specification."""
    evaluation = spec.evaluation
    return evaluation is None or not evaluation.sft_steps or _all_fixed(evaluation)


def _all_fixed(evaluation: EvaluationSpec) -> bool:
    return all(_is_fixed(one.reward) for one in evaluation.sets)


def _is_fixed(reward: RewardSpec) -> bool:
    return all(part.type in _FIXED_REWARDS for part in single_rewards(reward))
