"""A stage's reward: weights, error policies, audits and counts."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.contract.metric_names import describe_metric
from service.contract.rewards import RewardSpec
from tests.workers.rewards.samples import make_sample
from workers.rewards.reward import Verdict, open_reward
from workers.rewards.samples import RewardFailed

FUNCTION = """
def reward(prompt, completion, answer):
    return {"half": 0.5, "wrong": 0.0}[completion] if completion in ("half", "wrong") else float(completion)
"""
EXACT = {"type": "exact_match"}


@pytest.fixture
def function(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "stage_reward.py").write_text(FUNCTION)
    return {"type": "python_function", "function": "stage_reward:reward", "working_dir": str(tmp_path)}


def judged(body: dict[str, Any], completions: list[str], answer: str = "1.0") -> tuple[list[Verdict], dict[str, float]]:
    spec: RewardSpec = TypeAdapter(RewardSpec).validate_python(body)
    samples = [make_sample(text, answer, uid=7, index=index) for index, text in enumerate(completions)]
    with open_reward(spec, lambda: None) as reward:
        verdicts, metrics = reward.judge(samples), reward.metrics_of(reward.take_tally())
    assert all(describe_metric(name) and describe_metric(f"eval/test/{name}") for name in metrics)
    return verdicts, metrics


def scores(verdicts: list[Verdict]) -> list[float | None]:
    return [verdict.score for verdict in verdicts]


def test_a_reward_that_cannot_fail_has_no_figures_of_its_own() -> None:
    verdicts, metrics = judged(EXACT, ["1.0", "2"])
    assert scores(verdicts) == [1.0, 0.0]
    assert metrics == {}


def test_parts_are_weighed_and_right_in_all_is_exactly_one(function: dict[str, Any]) -> None:
    weights = {"a": 0.7, "b": 0.2, "c": 0.1}
    parts = [{"name": name, "weight": weight, "reward": EXACT} for name, weight in weights.items()]
    parts[2]["reward"] = function
    verdicts, metrics = judged({"type": "combined", "parts": parts}, ["1.0", "half"])
    assert scores(verdicts) == [1.0, 0.05]
    assert verdicts[1].parts == {"a": 0.0, "b": 0.0, "c": 0.5}
    assert metrics["rewards/a/mean"] == 0.5
    assert metrics["rewards/c/mean"] == 0.75


@pytest.mark.parametrize(("on_error", "score"), [("zero", 0.0), ("drop", None)])
def test_samples_that_cannot_be_judged_get_what_the_policy_says(
    function: dict[str, Any], on_error: str, score: float | None
) -> None:
    verdicts, metrics = judged(function | {"on_error": on_error}, ["1", "no number", "half"])
    assert scores(verdicts) == [1.0, score, 0.5]
    assert metrics == {
        "reward/num_errors": 1.0,
        "reward/num_timeouts": 0.0,
        "reward/num_dropped": float(score is None),
    }


def test_a_policy_may_end_the_run_and_says_what_happened(function: dict[str, Any]) -> None:
    with pytest.raises(RewardFailed, match=r"sample 1 of prompt 7: ValueError: could not convert .*'no number'"):
        judged(function | {"on_error": "fail"}, ["1", "no number"])


def test_a_reward_that_judges_nothing_ends_the_run(function: dict[str, Any]) -> None:
    with pytest.raises(RewardFailed, match="none of 8 samples could be judged"):
        judged(function, ["no number"] * 8)


def test_an_audit_counts_disagreement_and_changes_no_reward(function: dict[str, Any]) -> None:
    body = {"type": "audited", "reward": EXACT, "auditor": function, "fraction": 1.0}
    verdicts, metrics = judged(body, ["1.0", "1", "wrong", "no number"])
    assert scores(verdicts) == [1.0, 0.0, 0.0, 0.0]
    assert metrics == {
        "reward/audit/num_samples": 4.0,
        "reward/audit/num_errors": 1.0,
        "reward/audit/disagreement": 1 / 3,
    }


def test_an_audit_takes_its_share_and_the_same_one_again() -> None:
    body = {"type": "audited", "reward": EXACT, "auditor": {"type": "exact_match"}, "fraction": 0.25}
    shares = [judged(body, [str(number) for number in range(400)])[1]["reward/audit/num_samples"] for _ in range(2)]
    assert shares[0] == shares[1]
    assert 60 < shares[0] < 140
