"""An evaluation's metrics: hand-computed, and all of them registered."""

from typing import Any

import pytest

from service.contract.metric_names import describe_metric
from workers.evaluation.summary import EvaluatedGroup, summarise


def a_group(prompt_uid: int = 0, rewards: tuple[float, ...] = (1.0, 0.0), **changes: Any) -> EvaluatedGroup:
    texts = changes.pop("texts", [f"{prompt_uid} {index} a b" for index in range(len(rewards))])
    columns: dict[str, Any] = {"answer_keys": texts, "lengths": [4] * len(rewards), "clipped": [False] * len(rewards)}
    return EvaluatedGroup(prompt_uid=prompt_uid, rewards=list(rewards), texts=texts, **(columns | changes))


def test_figures_are_means_over_prompts() -> None:
    groups = [
        a_group(3, (1.0, 1.0, 0.0, 0.0), texts=["a b c d", "a b c d", "x", "y"], lengths=[2, 4, 6, 8]),
        a_group(5, (0.0, 0.0, 0.0, 0.0), texts=["e"] * 4, clipped=[True, True, False, False]),
    ]
    metrics, detail = summarise("test", groups, [1, 2, 4])
    assert metrics == pytest.approx(
        {
            "eval/test/avg@4": 0.25,
            "eval/test/pass@1": 0.25,
            "eval/test/pass@2": (1 - 1 / 6) / 2,
            "eval/test/pass@4": 0.5,
            "eval/test/mean_length": 4.5,
            "eval/test/clipped_ratio": 0.25,
            "diversity/test/distinct_answers@4": 2.0,
            "diversity/test/distinct_correct@4": 0.5,
            "diversity/test/frac_mixed_groups": 0.5,
            "diversity/test/self_bleu": 75.0,
        }
    )
    assert detail["correct_counts"] == [{"uid": 3, "n": 4, "c": 2}, {"uid": 5, "n": 4, "c": 0}]


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
