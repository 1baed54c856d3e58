"""Rewards as the stages use them: built from a specification, scoring text."""

import pytest

from service.contract.data import CountdownReward, ExactMatchReward
from workers.rewards.build import MAX_COUNTDOWN_CHARACTERS, build_reward

GOLD = "3 5 7 -> 22"
RIGHT = "3 * 5 = 15 ; 15 + 7 = 22"


def test_countdown_rewards_a_trace_that_reaches_the_target() -> None:
    assert build_reward(CountdownReward()).score(RIGHT, GOLD) == 1.0


def test_countdown_does_not_reward_another_target() -> None:
    assert build_reward(CountdownReward()).score(RIGHT, "3 5 7 -> 21") == 0.0


@pytest.mark.parametrize("completion", ["", ";", "= = =", "\x00", "3 * 5", "９ + 1 = 10 ; 1 + 1 = 2"])
def test_no_completion_makes_countdown_raise(completion: str) -> None:
    reward = build_reward(CountdownReward())
    assert reward.score(completion, GOLD) == 0.0
    assert isinstance(reward.answer_key(completion), str)


def test_overlong_text_is_wrong_even_if_it_is_a_trace_with_spaces() -> None:
    assert build_reward(CountdownReward()).score(RIGHT + " " * MAX_COUNTDOWN_CHARACTERS, GOLD) == 0.0


def test_countdown_answers_are_equal_up_to_spacing_and_operand_order() -> None:
    reward = build_reward(CountdownReward())
    assert reward.answer_key(RIGHT) == reward.answer_key("5 *  3 = 15 ; 7 + 15 = 22")
    assert reward.answer_key(RIGHT) != reward.answer_key("3 + 5 = 8 ; 8 + 7 = 15")


def test_texts_that_are_no_trace_are_answers_of_their_own() -> None:
    reward = build_reward(CountdownReward())
    assert reward.answer_key("3 +") == reward.answer_key(" 3  + ") != reward.answer_key("3 -")


def test_unreadable_gold_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="Countdown problem"):
        build_reward(CountdownReward()).score(RIGHT, "22")


def test_exact_match_ignores_outer_white_space_only() -> None:
    reward = build_reward(ExactMatchReward())
    assert reward.score(" 42\n", "42 ") == 1.0
    assert reward.score("4 2", "42") == 0.0
    assert reward.answer_key(" 42\n") == "42"


def test_blank_gold_answer_never_rewards_an_empty_completion() -> None:
    with pytest.raises(ValueError, match="blank"):
        build_reward(ExactMatchReward()).score("", " ")
