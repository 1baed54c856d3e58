"""Gold answers are read exactly, and what cannot be read says what to write instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.gold_answers import (
    CountdownGold,
    ProgramCase,
    parse_assert_tests,
    parse_countdown_gold,
    parse_exact_match_gold,
    parse_json_schema_gold,
    parse_math_gold,
    parse_stdin_tests,
)

INTEGERS = st.integers(0, 36)


def test_countdown_gold_is_read_with_free_whitespace() -> None:
    expected = CountdownGold(numbers=(3, 5, 7), target=22)
    assert parse_countdown_gold("3 5 7 -> 22") == expected
    assert parse_countdown_gold("  3 5  7\t-> 22\n") == expected


@given(numbers=st.tuples(INTEGERS, INTEGERS, INTEGERS), target=INTEGERS)
def test_text_of_a_countdown_gold_reads_back(numbers: tuple[int, int, int], target: int) -> None:
    gold = CountdownGold(numbers=numbers, target=target)
    assert parse_countdown_gold(str(gold)) == gold


@pytest.mark.parametrize(
    "text",
    ["", "22", "3 5 -> 22", "3 5 7 9 -> 22", "3 5 7 = 22", "3 5 7->22", "3 5 7 -> 22 :", "-> 3 5 7 22"],
)
def test_text_of_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it like '3 5 7 -> 22'"):
        parse_countdown_gold(text)


@pytest.mark.parametrize("text", ["3 5 37 -> 22", "3 -5 7 -> 22", "3 5 7 -> 1e1", "03 5 7 -> 22", "3 5 \u0667 -> 22"])
def test_integer_outside_the_range_or_spelt_otherwise_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no integer in 0\.\.36"):
        parse_countdown_gold(text)


def test_a_very_long_gold_is_shortened_in_the_message() -> None:
    with pytest.raises(ValueError, match="no Countdown problem") as caught:
        parse_countdown_gold("9" * 100_000)
    assert len(str(caught.value)) < 400


def test_exact_match_gold_is_stripped() -> None:
    assert parse_exact_match_gold("  forty two \n") == "forty two"


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_blank_exact_match_gold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is blank"):
        parse_exact_match_gold(text)


@pytest.mark.parametrize("text", ["", " ", r"\frac{1}{2", "1" * 3000])
def test_mathematics_of_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="gold answer"):
        parse_math_gold(text)


def test_escaped_braces_are_no_braces() -> None:
    assert parse_math_gold(r" \{1, 2 ") == r"\{1, 2"


@pytest.mark.parametrize("text", ["", "# nothing", "assert (", "\x00"])
def test_tests_that_test_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="gold answer"):
        parse_assert_tests(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '[{"input": "1"}]', '[{"input": 1, "output": "1"}]', "[" * 99_999])
def test_cases_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"gold answer|test case"):
        parse_stdin_tests(text)


def test_cases_are_read() -> None:
    assert parse_stdin_tests('[{"input": "ü", "output": ""}]') == [ProgramCase(input="ü", output="")]


def test_a_schema_is_a_json_object() -> None:
    assert parse_json_schema_gold('{"type": "array"}') == {"type": "array"}
    with pytest.raises(ValueError, match="no JSON Schema"):
        parse_json_schema_gold("3")
