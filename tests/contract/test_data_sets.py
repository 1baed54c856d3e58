"""Data sets by name: what they fill in, what a user keeps, and how a wrong name or place is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.contract.data import PromptData, SupervisedData
from service.contract.data_sets import DATA_SETS, PAPER_EVALUATION_SETS
from service.contract.evaluation import EvaluationSet, EvaluationSpec
from service.contract.published import published_table

SHA = "0" * 40


def prompts(**body: Any) -> PromptData:
    return PromptData.model_validate(body)


def test_the_papers_eight_sets_are_the_columns_of_its_table() -> None:
    assert list(PAPER_EVALUATION_SETS) == published_table().sets


def test_a_name_stands_for_a_place_on_the_hub_with_its_commit_and_columns() -> None:
    data = prompts(set="gsm8k")
    assert (data.type, data.path, data.config, data.split) == ("huggingface", "openai/gsm8k", "main", "test")
    assert data.revision is not None and len(data.revision) == 40
    assert (data.prompt_field, data.answer_field, data.answer_form) == ("question", "answer", "after_hashes")
    assert data.expected_rows == 1319 and data.chat is not None


def test_a_path_makes_it_a_file_with_the_same_meaning() -> None:
    data = prompts(set="olympiadbench", path="/data/olympiad.parquet")
    assert (data.type, data.path, data.revision, data.split) == ("parquet", "/data/olympiad.parquet", None, None)
    assert (data.answer_form, data.expected_rows) == ("first_of_list", 675)


def test_what_a_user_writes_beside_the_name_stays() -> None:
    data = prompts(set="math", expected_rows=None, chat={"system_prompt": "Think."}, answer_form="text")
    assert data.expected_rows is None and data.answer_form == "text"
    assert data.chat is not None and data.chat.system_prompt == "Think."


@pytest.mark.parametrize("one", DATA_SETS.values(), ids=lambda one: one.name)
def test_what_a_definition_fills_in_is_valid_and_says_the_same_when_it_is_read_again(one: Any) -> None:
    model = PromptData if one.use == "prompts" else SupervisedData
    bodies: list[dict[str, Any]] = [{"set": one.name, "path": "/data/rows.jsonl"}]
    if one.hub is not None:
        bodies.append({"set": one.name} | ({} if one.hub.revision else {"revision": SHA}))
    for body in bodies:
        data = model.model_validate(body)
        assert model.model_validate_json(data.model_dump_json()) == data


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"set": "gsm8"}, "did you mean 'gsm8k'"),
        ({"set": "zzzz"}, "the sets are aime24, aime25"),
        ({"set": "college_math"}, "no commit is known here; give the commit's 40 hexadecimal digits as revision"),
        ({"set": "sed_sft_rl"}, "a file and not on the hub"),
        ({"set": "miromind_m1_sft", "path": "/rows.jsonl"}, "made for sft.data"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_what_to_do(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PromptData.model_validate(body)


def test_an_evaluation_of_a_named_set_needs_neither_name_nor_reward() -> None:
    one = EvaluationSet.model_validate({"data": {"set": "aime25"}, "max_completion_length": 8})
    assert one.name == "aime25" and one.reward.type == "math_answer"
    body = {"data": {"set": "aime25"}, "name": "mine", "reward": {"type": "exact_match"}, "max_completion_length": 8}
    kept = EvaluationSpec.model_validate(body)
    assert kept.name == "mine" and kept.reward.type == "exact_match"
