"""From the judged samples of an evaluation to its metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from workers.evaluation.diversity import (
    distinct_answers,
    distinct_correct,
    frac_mixed_groups,
    num_correct,
    self_bleu,
)
from workers.evaluation.pass_at_k import pass_at_k


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedGroup:
    """All samples of one prompt. The lists run over the samples, in the same order."""

    prompt_uid: int
    rewards: list[float]
    answer_keys: list[str]
    texts: list[str]
    lengths: list[int]
    """Tokens, end-of-sequence token included."""
    clipped: list[bool]
    """Whether the length limit cut the sample."""


def summarise(
    name: str, groups: list[EvaluatedGroup], pass_at_k_values: list[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of an evaluation set by their registered names, and the counts that they follow from.

    All figures are means over prompts of means over samples. `avg@`, `distinct_answers@` and `distinct_correct@` are
    taken over all samples of a prompt and carry their number. Self-BLEU is left out if there is one sample a prompt.

    The detail holds `num_prompts`, `num_generations` and `correct_counts`: uid, n and c of each prompt.

    Raises ValueError if there is no group, groups differ in size, or a k exceeds the samples.
    """
    num_generations = _num_generations(groups)
    metrics = {
        f"eval/{name}/avg@{num_generations}": _mean(groups, lambda group: fmean(group.rewards)),
        **{f"eval/{name}/pass@{k}": _mean(groups, _pass_at(k)) for k in pass_at_k_values},
        f"eval/{name}/mean_length": _mean(groups, lambda group: fmean(group.lengths)),
        f"eval/{name}/clipped_ratio": _mean(groups, lambda group: fmean(group.clipped)),
        f"diversity/{name}/distinct_answers@{num_generations}": _mean(
            groups, lambda group: distinct_answers(group.answer_keys)
        ),
        f"diversity/{name}/distinct_correct@{num_generations}": _mean(
            groups, lambda group: distinct_correct(group.answer_keys, group.rewards)
        ),
        f"diversity/{name}/frac_mixed_groups": frac_mixed_groups(group.rewards for group in groups),
    }
    if num_generations > 1:
        metrics[f"diversity/{name}/self_bleu"] = _mean(groups, lambda group: self_bleu(group.texts))
    detail = {
        "num_prompts": len(groups),
        "num_generations": num_generations,
        "correct_counts": [
            {"uid": group.prompt_uid, "n": len(group.rewards), "c": num_correct(group.rewards)} for group in groups
        ],
    }
    return metrics, detail


def _num_generations(groups: list[EvaluatedGroup]) -> int:
    sizes = {
        len(column)
        for group in groups
        for column in (group.rewards, group.answer_keys, group.texts, group.lengths, group.clipped)
    }
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            f"an evaluation needs prompts with equally many samples, got {len(groups)} prompts with {sorted(sizes)}; "
            "generate num_generations completions for each prompt"
        )
    return sizes.pop()


def _pass_at(k: int) -> Callable[[EvaluatedGroup], float]:
    return lambda group: pass_at_k(len(group.rewards), num_correct(group.rewards), k)


def _mean(groups: list[EvaluatedGroup], value: Callable[[EvaluatedGroup], float]) -> float:
    return fmean(value(group) for group in groups)
