"""From the judged samples of an evaluation to its metrics."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from workers.evaluation.correctness import num_correct
from workers.evaluation.diversity import (
    distinct_answers,
    distinct_correct,
    distinct_n,
    frac_mixed_groups,
    self_bleu,
)
from workers.evaluation.entropy import sequence_entropy, token_entropy
from workers.evaluation.majority import majority_at_n
from workers.evaluation.pass_at_k import pass_at_k, powers_of_two

_NGRAM_LENGTHS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedGroup:
    """All samples of one prompt. The lists run over the samples, in the same order."""

    prompt_uid: int
    rewards: list[float]
    answer_keys: list[str]
    texts: list[str]
    lengths: list[int]
    """Tokens, end-of-sequence token included."""
    logprob_sums: list[float]
    """Log-prob of each sample under the distribution that it was drawn from."""
    clipped: list[bool]
    """Whether the length limit cut the sample."""


def summarise(
    name: str, groups: list[EvaluatedGroup], pass_at_k_values: list[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of an evaluation set by their registered names, and the counts that they follow from.

    All figures are means over prompts of figures of one prompt, but the shortest and longest sample of all. What is
    taken over all samples of a prompt carries their number, such as `avg@`, `maj@` and `distinct_answers@`. pass@k
    comes for the given k and for all powers of two that the samples allow. Left out are Self-BLEU if there is one
    sample a prompt, and distinct-n if no sample is n words long.

    The detail holds `num_prompts`, `num_generations` and `per_prompt`: columns with one entry per prompt, in the order
    of `groups` (see `_per_prompt`).

    Raises ValueError if there is no group, groups differ in size, or a k exceeds the samples.
    """
    num_generations = _num_generations(groups)
    metrics = {
        **_success(f"eval/{name}", groups, num_generations, pass_at_k_values),
        **_lengths(f"eval/{name}", groups),
        **_diversity(f"diversity/{name}", groups, num_generations),
    }
    detail = {"num_prompts": len(groups), "num_generations": num_generations, "per_prompt": _per_prompt(groups)}
    return metrics, detail


def _success(
    prefix: str, groups: list[EvaluatedGroup], num_generations: int, pass_at_k_values: list[int]
) -> dict[str, float]:
    ks = sorted({*pass_at_k_values, *powers_of_two(num_generations)})
    return {
        f"{prefix}/avg@{num_generations}": _mean(groups, lambda group: fmean(group.rewards)),
        **{f"{prefix}/pass@{k}": _mean(groups, _pass_at(k)) for k in ks},
        f"{prefix}/maj@{num_generations}": _mean(groups, lambda group: majority_at_n(group.answer_keys, group.rewards)),
    }


def _lengths(prefix: str, groups: list[EvaluatedGroup]) -> dict[str, float]:
    lengths = [length for group in groups for length in group.lengths]
    return {
        f"{prefix}/mean_length": _mean(groups, lambda group: fmean(group.lengths)),
        f"{prefix}/min_length": float(min(lengths)),
        f"{prefix}/max_length": float(max(lengths)),
        f"{prefix}/clipped_ratio": _mean(groups, lambda group: fmean(group.clipped)),
    }


def _diversity(prefix: str, groups: list[EvaluatedGroup], num_generations: int) -> dict[str, float]:
    metrics = {
        f"{prefix}/distinct_answers@{num_generations}": _mean(
            groups, lambda group: distinct_answers(group.answer_keys)
        ),
        f"{prefix}/distinct_correct@{num_generations}": _mean(
            groups, lambda group: distinct_correct(group.answer_keys, group.rewards)
        ),
        f"{prefix}/frac_mixed_groups": frac_mixed_groups(group.rewards for group in groups),
    }
    if num_generations > 1:
        metrics[f"{prefix}/self_bleu"] = _mean(groups, lambda group: self_bleu(group.texts))
    for n in _NGRAM_LENGTHS:
        shares = [share for group in groups if (share := distinct_n(group.texts, n)) is not None]
        if shares:
            metrics[f"{prefix}/distinct-{n}"] = fmean(shares)
    return metrics | {
        f"{prefix}/token_entropy": _mean(groups, lambda group: token_entropy(group.logprob_sums, group.lengths)),
        f"{prefix}/sequence_entropy": _mean(groups, lambda group: sequence_entropy(group.logprob_sums)),
    }


def _per_prompt(groups: Iterable[EvaluatedGroup]) -> dict[str, list[Any]]:
    """Columns: a list each instead of an object per prompt, since a set may have thousands.

    With uid and n they are all that resampling prompts needs: `num_correct` for pass@k, `mean_reward` for avg@n,
    `majority` for maj@n, `num_clipped`, `num_tokens` and `num_answers` for lengths and diversity.
    """
    rows = [
        (
            group.prompt_uid,
            num_correct(group.rewards),
            fmean(group.rewards),
            majority_at_n(group.answer_keys, group.rewards),
            distinct_answers(group.answer_keys),
            sum(group.clipped),
            sum(group.lengths),
        )
        for group in groups
    ]
    names = ("uid", "num_correct", "mean_reward", "majority", "num_answers", "num_clipped", "num_tokens")
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _num_generations(groups: list[EvaluatedGroup]) -> int:
    sizes = {
        len(column)
        for group in groups
        for column in (
            group.rewards,
            group.answer_keys,
            group.texts,
            group.lengths,
            group.logprob_sums,
            group.clipped,
        )
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
