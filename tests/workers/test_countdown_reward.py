"""The Countdown verifier accepts legal traces only, and answer keys tell apart what they promise to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.gold_answers import CountdownGold
from workers.rewards.countdown import countdown_answer_key, verify_countdown

GOLD = CountdownGold(numbers=(3, 5, 7), target=22)
RIGHT = "3 * 5 = 15 ; 15 + 7 = 22"
WORDS = st.sampled_from([*map(str, range(38)), "+", "-", "*", "/", "=", ";", "->", ":", "007", "-1", "x"])


@pytest.mark.parametrize(
    "completion",
    [RIGHT, "5 * 3 = 15 ; 15 + 7 = 22", "3 * 5 = 15 ; 7 + 15 = 22", f"  {RIGHT.replace(' ', '  ')}\n"],
)
def test_legal_traces_are_right(completion: str) -> None:
    assert verify_countdown(completion, GOLD)


@pytest.mark.parametrize(
    ("completion", "numbers", "target"),
    [
        ("3 * 5 = 15 ; 15 + 6 = 21", (3, 5, 7), 21),  # a number that is not there
        ("3 + 3 = 6 ; 6 * 5 = 30", (3, 5, 7), 30),  # a number used twice
        ("3 + 5 = 8 ; 5 + 7 = 12", (3, 5, 7), 12),  # first result not used
        ("3 + 5 = 9 ; 9 + 7 = 16", (3, 5, 7), 16),  # wrong sum
        ("3 + 5 = 8 ; 8 + 7 = 15", (3, 5, 7), 16),  # another target
        ("7 / 3 = 2 ; 2 * 5 = 10", (3, 5, 7), 10),  # division with a remainder
        ("5 / 0 = 0 ; 0 + 7 = 7", (0, 5, 7), 7),  # division by zero
        ("3 - 5 = -2 ; 7 - 2 = 5", (3, 5, 7), 5),  # negative result
        ("5 * 8 = 40 ; 40 - 7 = 33", (5, 8, 7), 33),  # result above 36
        ("3 + 5 = 8 ; 8 + 7 = 15 ; 15 + 7 = 22", (3, 5, 7), 15),  # a third step
        ("3 * 5 = 15 ; 15 + 7 = 22 <eos>", (3, 5, 7), 22),  # something after it
        ("3 * 5 = 15", (3, 5, 7), 15),  # one step only
        ("3 * 5 = 15 : 15 + 7 = 22", (3, 5, 7), 22),  # another separator
        ("3*5 = 15 ; 15 + 7 = 22", (3, 5, 7), 22),  # words run together
        ("", (3, 5, 7), 22),
    ],
)
def test_illegal_traces_are_wrong(completion: str, numbers: tuple[int, int, int], target: int) -> None:
    assert not verify_countdown(completion, CountdownGold(numbers=numbers, target=target))


@given(words=st.lists(WORDS, max_size=14))
def test_any_text_is_judged_without_an_error_and_right_text_has_a_key(words: list[str]) -> None:
    completion = " ".join(words)
    right = verify_countdown(completion, GOLD)
    assert not right or countdown_answer_key(completion) is not None


@given(text=st.text())
def test_arbitrary_unicode_is_wrong(text: str) -> None:
    assert not verify_countdown(text, GOLD)
    assert countdown_answer_key(text) is None


@given(position=st.integers(0, 10), word=WORDS)
def test_changing_one_word_of_a_right_trace_makes_it_wrong(position: int, word: str) -> None:
    words = RIGHT.split()
    changed = [*words[:position], word, *words[position + 1 :]]
    assert verify_countdown(" ".join(changed), GOLD) == (changed == words)


def test_key_ignores_whitespace_and_the_order_of_commuting_operands() -> None:
    same = [RIGHT, "5 * 3 = 15 ; 15 + 7 = 22", "5 * 3 = 15 ; 7  +  15 = 22 "]
    assert {countdown_answer_key(completion) for completion in same} == {"3 * 5 = 15 ; 7 + 15 = 22"}


def test_key_tells_other_paths_to_the_same_value_apart() -> None:
    assert countdown_answer_key("3 + 5 = 8 ; 8 + 7 = 15") != countdown_answer_key("3 + 7 = 10 ; 10 + 5 = 15")


@pytest.mark.parametrize("completion", ["", "3 + 5 = 9 ; 9 + 7 = 16", "3 + 5 = 8 ; 5 + 7 = 12", "3 + 5 = 8"])
def test_text_that_is_no_sound_trace_has_no_key(completion: str) -> None:
    assert countdown_answer_key(completion) is None
