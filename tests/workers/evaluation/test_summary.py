"""An evaluation's metrics: hand-computed, and all of them registered."""

from typing import Any

import pytest

from service.contract.metric_names import describe_metric
from workers.evaluation.summary import EvaluatedGroup, summarise


def a_group(prompt_uid: int = 0, rewards: tuple[float, ...] = (1.0, 0.0), **changes: Any) -> EvaluatedGroup:
    texts = changes.pop("texts", [f"{prompt_uid} {index} a b" for index in range(len(rewards))])
    columns: dict[str, Any] = {
        "answer_keys": texts,
        "lengths": [4] * len(rewards),
        "logprob_sums": [-2.0] * len(rewards),
        "clipped": [False] * len(rewards),
    }
    return EvaluatedGroup(prompt_uid=prompt_uid, rewards=list(rewards), texts=texts, **(columns | changes))


def test_figures_are_means_over_prompts() -> None:
    groups = [
        a_group(
            3,
            (1.0, 1.0, 0.0, 0.0),
            texts=["a b c d", "a b c d", "x", "y"],
            lengths=[2, 4, 6, 8],
            logprob_sums=[-1.0, -2.0, -3.0, -4.0],
        ),
        a_group(5, (0.0, 0.0, 0.0, 0.0), texts=["e"] * 4, clipped=[True, True, False, False]),
    ]
    metrics, detail = summarise("test", groups, [1, 3])
    assert metrics == pytest.approx(
        {
            "eval/test/avg@4": 0.25,
            "eval/test/pass@1": 0.25,
            "eval/test/pass@2": (1 - 1 / 6) / 2,
            "eval/test/pass@3": 0.5,
            "eval/test/pass@4": 0.5,
            "eval/test/maj@4": 0.5,
            "eval/test/mean_length": 4.5,
            "eval/test/min_length": 2.0,
            "eval/test/max_length": 8.0,
            "eval/test/clipped_ratio": 0.25,
            "diversity/test/distinct_answers@4": 2.0,
            "diversity/test/distinct_correct@4": 0.5,
            "diversity/test/frac_mixed_groups": 0.5,
            "diversity/test/self_bleu": 75.0,
            "diversity/test/distinct-1": (6 / 10 + 1 / 4) / 2,
            "diversity/test/distinct-2": 0.5,
            "diversity/test/distinct-3": 0.5,
            "diversity/test/distinct-4": 0.5,
            "diversity/test/token_entropy": (10 / 20 + 8 / 16) / 2,
            "diversity/test/sequence_entropy": (2.5 + 2.0) / 2,
        }
    )
    assert detail["per_prompt"] == {
        "uid": [3, 5],
        "num_correct": [2, 0],
        "mean_reward": [0.5, 0.0],
        "majority": [1.0, 0.0],
        "num_answers": [3, 1],
        "num_clipped": [0, 2],
        "num_tokens": [20, 16],
    }


def test_the_curve_of_pass_at_k_ends_with_the_last_power_of_two() -> None:
    metrics, _ = summarise("test", [a_group(rewards=(0.0,) * 6)], [5])
    assert [name for name in metrics if "pass@" in name] == [f"eval/test/pass@{k}" for k in (1, 2, 4, 5)]


def test_every_metric_is_registered_for_evaluation() -> None:
    metrics, _ = summarise("held-out_2", [a_group()], [1, 2])
    assert {getattr(describe_metric(name), "stage", None) for name in metrics} == {"evaluate"}


def test_one_sample_a_prompt_has_no_self_bleu() -> None:
    metrics, _ = summarise("test", [a_group(rewards=(1.0,))], [1])
    assert "diversity/test/self_bleu" not in metrics


@pytest.mark.parametrize("groups", [[], [a_group(), a_group(rewards=(1.0,))], [a_group(lengths=[1])]])
def test_groups_of_different_size_are_refused(groups: list[EvaluatedGroup]) -> None:
    with pytest.raises(ValueError, match="equally many samples"):
        summarise("test", groups, [1])


def test_k_beyond_the_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@3"):
        summarise("test", [a_group()], [3])
