"""What a specification may say about rewards."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from service.contract.rewards import RewardSpec, single_rewards

REWARDS: TypeAdapter[RewardSpec] = TypeAdapter(RewardSpec)
EXACT = {"type": "exact_match"}
JUDGE = {"type": "http_judge", "url": "https://judge.test/score"}


@pytest.mark.parametrize(
    "body",
    [
        EXACT,
        {"type": "math_answer", "on_error": "fail"},
        {"type": "regex", "pattern": "(?P<answer>.)"},
        {"type": "json_schema", "json_schema": {"type": "object"}},
        {"type": "python_function", "function": "my.rewards:score"},
        {"type": "code_tests", "tests": "stdin_stdout"},
        JUDGE,
        {"type": "combined", "parts": [{"name": "a", "weight": 0.5, "reward": EXACT}]},
        {"type": "audited", "reward": EXACT, "auditor": {"type": "math_answer"}},
    ],
)
def test_a_reward_survives_its_canonical_form(body: dict[str, Any]) -> None:
    spec = REWARDS.validate_python(body)
    assert REWARDS.validate_json(REWARDS.dump_json(spec)) == spec


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"type": "regex", "pattern": "("}, "no regular expression"),
        (JUDGE | {"url": "ftp://judge.test"}, "no http"),
        (JUDGE | {"url": "http://me:secret@judge.test"}, "use token_env"),
        ({"type": "python_function", "function": "my.rewards"}, "pattern"),
        ({"type": "combined", "parts": [{"name": "a", "reward": EXACT}] * 2}, "its own name"),
        ({"type": "code_tests", "max_memory_mb": 512}, "raise the latter"),
        ({"type": "countdown", "timeout_s": 1.0}, "timeout_s"),
    ],
)
def test_a_reward_that_cannot_work_is_refused(body: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        REWARDS.validate_python(body)


def test_all_rewards_that_read_the_gold_answer_are_found() -> None:
    combined = {"type": "combined", "parts": [{"name": "a", "reward": EXACT}, {"name": "b", "reward": JUDGE}]}
    spec = REWARDS.validate_python({"type": "audited", "reward": combined, "auditor": {"type": "math_answer"}})
    assert [single.type for single in single_rewards(spec)] == ["exact_match", "http_judge", "math_answer"]
