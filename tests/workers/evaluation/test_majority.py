"""Majority voting, by hand and against drawing lots."""

import pytest

from workers.evaluation.majority import majority_at_n


@pytest.mark.parametrize(
    ("answers", "right", "expected"),
    [
        ("aab", "a", 1.0),
        ("aab", "b", 0.0),
        ("aabb", "a", 0.5),
        ("abc", "c", 1 / 3),
        ("a", "a", 1.0),
        ("bbaaac", "b", 0.0),
    ],
)
def test_the_commonest_answer_decides_and_equals_draw_lots(answers: str, right: str, expected: float) -> None:
    rewards = [float(answer == right) for answer in answers]
    assert majority_at_n(list(answers), rewards) == pytest.approx(expected)
    assert majority_at_n(list(answers)[::-1], rewards[::-1]) == pytest.approx(expected)


def test_a_partial_reward_is_no_right_answer() -> None:
    assert majority_at_n(["a", "a"], [0.9, 0.9]) == 0.0


def test_two_right_answers_do_not_add_their_votes() -> None:
    assert majority_at_n(["a", "b", "c", "c"], [1.0, 1.0, 0.0, 0.0]) == 0.0
