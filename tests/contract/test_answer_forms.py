from typing import Any

import pytest

from service.contract.answer_forms import gold_text
from service.contract.data import AnswerForm, PromptData
from service.contract.records import RecordFault, lacks_answer, read_answer


@pytest.mark.parametrize(
    ("form", "value", "gold"),
    [
        ("text", " 7 ", " 7 "),
        ("number", 27.0, "27"),
        ("number", 3, "3"),
        ("number", 0.5, "0.5"),
        ("number", "070", "070"),
        ("after_hashes", "1 + 1 = 2 #### wrong\n#### 1,200", "1200"),
        ("last_boxed", r"\boxed{1}, no, \boxed{\frac{a}{\{b\}}}.", r"\frac{a}{\{b\}}"),
        ("last_boxed", r"It is $\boxed 7$.", "7"),
        ("first_of_list", ["$2$", "3"], "$2$"),
    ],
)
def test_the_gold_answer_is_found_where_the_form_says(form: AnswerForm, value: Any, gold: str) -> None:
    assert gold_text(value, form) == gold


@pytest.mark.parametrize(
    ("form", "value", "problem"),
    [
        ("after_hashes", "7", "'answer' holds no ####"),
        ("last_boxed", "7", r"holds no \\boxed"),
        ("last_boxed", r"\boxed{7", "not closed"),
        ("first_of_list", [], "is no list with something in it"),
        ("number", True, "is True, which is no text"),
        ("text", 7, "is 7, which is no text"),
    ],
)
def test_an_answer_that_does_not_stand_there_is_a_fault(form: AnswerForm, value: Any, problem: str) -> None:
    with pytest.raises(RecordFault, match=problem):
        read_answer({"answer": value}, PromptData(path="/rows", answer_form=form))


def test_dots_lead_into_objects_unless_a_key_has_them_itself() -> None:
    data = PromptData(path="/rows", answer_field="a.b")
    assert read_answer({"a": {"b": "inner"}}, data) == "inner"
    assert read_answer({"a": {"b": "inner"}, "a.b": "outer"}, data) == "outer"
    with pytest.raises(RecordFault, match=r"no key 'a\.b'"):
        read_answer({"a": "x"}, data)


def test_rows_without_an_answer_are_left_out_only_where_that_is_said() -> None:
    drop = PromptData(path="/rows", without_answer="drop")
    assert lacks_answer({"answer": " "}, drop) and lacks_answer({}, drop) and lacks_answer({"answer": None}, drop)
    assert not lacks_answer({"answer": "0"}, drop) and not lacks_answer({}, PromptData(path="/rows"))
