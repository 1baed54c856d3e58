from typing import Any

import pytest

from service.contract.stages import RlSpec
from service.planning.rl_checks import warn_of_rl
from tests.contract.test_rl_settings import make

SEVERAL = {"mini_batch_size": 8}


def warnings_of(**changes: Any) -> list[str]:
    spec: RlSpec = make(**changes)
    return list(warn_of_rl(spec))


@pytest.mark.parametrize(
    "changes", [SEVERAL, {"mode": "async", **SEVERAL}, {"policy_loss": "reinforce"}, {"preset": "dapo", **SEVERAL}]
)
def test_what_is_meant_gives_no_warning(changes: dict[str, Any]) -> None:
    assert warnings_of(**changes) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "never act"),
        ({"policy_loss": "reinforce", **SEVERAL}, "moves away"),
        ({"mode": "async", "rollout_correction": {"mode": "none"}, **SEVERAL}, "up to 1 versions old"),
        ({"mode": "async", "max_staleness": 5, **SEVERAL}, "is no bound for 5 steps"),
        ({"policy_loss": "gspo", **SEVERAL}, "3e-4 and 4e-4"),
        (
            {"preset": "dapo", "epsilon_high": 0.4, **SEVERAL},
            "stands for epsilon_high 0.28, but the specification says",
        ),
        ({"preset": "dapo", "overlong_buffer": None, **SEVERAL}, "overlong_buffer"),
        (
            {"adv_estimator": "reinforce_plus_plus", "dynamic_sampling": {"mode": "replace"}, **SEVERAL},
            "equal rewards too",
        ),
        ({"overlong_buffer": {"len": 4}, "mask_truncated_completions": True, **SEVERAL}, "are not trained"),
    ],
)
def test_what_is_hardly_meant_is_warned_of(changes: dict[str, Any], words: str) -> None:
    assert any(words in warning for warning in warnings_of(**changes))
