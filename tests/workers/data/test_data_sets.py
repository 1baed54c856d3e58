"""Each named data set, from samples in its own columns, through the run's own code to prompts, golds and verdicts."""

from pathlib import Path
from typing import Any

import pytest

from service.contract.data import PromptData, SupervisedData
from service.contract.data_sets import DATA_SETS
from service.contract.rewards import MathAnswerReward
from tests.workers.data.chat_templates import CHATML, byte_tokenizer
from tests.workers.rewards.samples import make_sample
from workers.config_error import ConfigError
from workers.data.prompt_dataset import read_prompts
from workers.data.sources import read_records
from workers.data.supervised_source import SupervisedSource
from workers.rewards.build import build_verifier
from workers.rewards.samples import GoldUnreadable

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "data_sets"


def source(name: str, sample: str, *, on_hub: bool, **changes: Any) -> dict[str, Any]:
    """The set with a few rows of ours in the columns of one of its places."""
    layout = DATA_SETS[name].layout(on_hub=on_hub)
    chat = {**layout["chat"], "template": CHATML}
    return {"set": name, "path": str(SAMPLES / sample), **layout, "chat": chat, "expected_rows": None, **changes}


@pytest.mark.parametrize(
    ("name", "sample", "on_hub", "golds", "right", "wrong"),
    [
        ("aime24", "aime24.hub.jsonl", True, ["256", "7"], r"So \boxed{256}.", r"So \boxed{255}."),
        ("aime24", "aime24.file.jsonl", False, ["256"], r"$16^2 = \boxed{256}$", r"\boxed{16}"),
        ("aime25", "aime25.jsonl", True, ["74"], r"\boxed{074}", r"\boxed{4}"),
        ("amc23", "amc23.jsonl", True, ["36", "4"], r"\boxed{36}", r"\boxed{9}"),
        ("gsm8k", "gsm8k.jsonl", True, ["1234"], r"\boxed{1,234}", r"\boxed{34}"),
        ("math", "math.jsonl", True, [r"\frac{1}{2}", "7"], r"\boxed{0.5}", r"\boxed{2}"),
        ("gaokao2023en", "gaokao2023en.jsonl", False, ["$(-2, 2)$", r"$\frac{1}{2}$"], r"\boxed{(-2,2)}", r"\boxed{2}"),
        ("olympiadbench", "olympiadbench.jsonl", True, [r"$\frac{n(n+1)}{2}$"], r"\boxed{n(n+1)/2}", r"\boxed{n^2}"),
        ("college_math", "college_math.jsonl", False, ["$10-2 n$"], r"\boxed{-2n + 10}", r"\boxed{10 + 2n}"),
        ("math_train", "math_train.jsonl", True, [r"2\sqrt{3}"], r"\boxed{\sqrt{12}}", r"\boxed{2}"),
        ("sed_sft_rl", "sed_sft_rl.jsonl", False, ["25"], r"<think>5</think> \boxed{25}", r"\boxed{10}"),
    ],
)
def test_a_set_becomes_prompts_with_golds_that_its_verifier_reads(
    name: str, sample: str, on_hub: bool, golds: list[str], right: str, wrong: str
) -> None:
    data = PromptData.model_validate(source(name, sample, on_hub=on_hub))
    prompts = read_prompts(data, byte_tokenizer())
    assert [prompt.answer for prompt in prompts] == golds
    assert all(prompt.text.startswith("<|im_start|>system\nPlease reason") for prompt in prompts)
    verifier = build_verifier(MathAnswerReward())
    assert verifier.score(make_sample(right, prompts[0].answer)) == 1.0
    assert verifier.score(make_sample(wrong, prompts[0].answer)) == 0.0


def test_a_gold_answer_that_is_no_mathematics_is_compared_as_text_where_that_is_said() -> None:
    verifier = build_verifier(MathAnswerReward(unreadable_gold="text"))
    for completion, score in (
        (r"\boxed{x = \frac{\mathrm{gb}}{f} : {}", 0.0),
        (r"\boxed{No solution : $\oslash$}", 1.0),
    ):
        assert verifier.score(make_sample(completion, r"No solution : $\oslash$")) == score
    with pytest.raises(GoldUnreadable):
        build_verifier(MathAnswerReward()).score(make_sample(r"\boxed{1}", r"No solution : $\oslash$"))


def test_rows_that_are_left_out_keep_the_numbers_of_the_others() -> None:
    data = PromptData.model_validate(source("gaokao2023en", "gaokao2023en.jsonl", on_hub=False))
    assert [prompt.uid for prompt in read_prompts(data, byte_tokenizer())] == [0, 2]


def test_the_sft_data_become_conversations_under_the_authors_prompt() -> None:
    body = source("miromind_m1_sft", "miromind_m1_sft.jsonl", on_hub=True)
    tokenizer = byte_tokenizer()
    [first, _] = SupervisedSource(SupervisedData.model_validate(body), tokenizer)
    asked = tokenizer.decode(first.samples[0].prompt_token_ids)
    assert asked.startswith(
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}<"
    )
    assert tokenizer.decode(first.samples[0].completion_token_ids).endswith("\\boxed{2}$.<|im_end|>")
    held_out = SupervisedSource(SupervisedData.model_validate({**body, "skip_rows": 1, "num_rows": 1}), tokenizer)
    assert [record.place for record in held_out] == [1]


def test_a_file_with_another_number_of_rows_is_not_the_set_that_was_meant() -> None:
    data = PromptData.model_validate({"set": "math", "path": str(SAMPLES / "math.jsonl")})
    with pytest.raises(ConfigError, match="holds 2 rows, not the 5000 of expected_rows"):
        list(read_records(data, ()))
    with pytest.raises(ConfigError, match="no rows beyond the 5 that are passed over"):
        list(read_records(data.model_copy(update={"skip_rows": 5, "expected_rows": None}), ()))
