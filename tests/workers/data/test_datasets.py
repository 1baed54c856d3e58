from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.data import PromptData
from tests.workers.tiny_model import make_pairs, make_sft_spec, make_tokenizer, write_lines
from workers.config_error import ConfigError
from workers.data.prompt_dataset import load_prompts, prompt_indices_for_step
from workers.data.sample_order import epoch_permutation
from workers.data.sft_dataset import load_sft_dataset
from workers.data.tokenization import tokenize_completions, tokenize_prompts

TOKENIZER = make_tokenizer()


def test_completions_end_with_the_end_token_and_prompts_do_not() -> None:
    assert tokenize_prompts(TOKENIZER, ["w0 w1"]) == [[3, 4]]
    assert tokenize_completions(TOKENIZER, ["w0 w1", "w2"]) == [[3, 4, 1], [5, 1]]


def test_an_end_token_that_the_tokenizer_appends_is_left_out_of_prompts() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = _append_end()
    assert tokenizer("w0")["input_ids"] == [3, 1]
    assert tokenize_prompts(tokenizer, ["w0", "w1 w2"]) == [[3], [4, 5]]
    assert tokenize_completions(tokenizer, ["w0"]) == [[3, 1]]


def test_dataset_keeps_file_order_and_counts_dropped_samples(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "sft.jsonl", make_pairs(10))
    # Prompts have 2, 3, 4, 2, ... tokens and completions, end token included, 2, 3, 4, 5, 2, ...
    dataset = load_sft_dataset(make_sft_spec(path, max_length=7, overlong="drop", max_overlong_fraction=0.2), TOKENIZER)
    assert dataset.num_dropped == 2
    assert [sample.num_tokens for sample in dataset.samples] == [4, 6, 7, 5, 7, 6, 6, 5]


def test_overlong_samples_are_counted_in_the_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "sft.jsonl", make_pairs(10))
    with pytest.raises(ConfigError, match=r"7 of 10 samples .*max_length 5 \(first in line 2; the longest has 8"):
        load_sft_dataset(make_sft_spec(path, max_length=5), TOKENIZER)


def test_dropping_every_sample_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "sft.jsonl", make_pairs(10))
    with pytest.raises(ConfigError, match="10 of 10 samples"):
        load_sft_dataset(make_sft_spec(path, max_length=2, overlong="drop"), TOKENIZER)


def test_an_epoch_visits_every_sample_once_in_its_own_order(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "sft.jsonl", make_pairs(10))
    dataset = load_sft_dataset(make_sft_spec(path), TOKENIZER)
    epochs = [
        [sample for step in steps for sample in dataset.batch(step, batch_size=4, seed=1)]
        for steps in ((1, 2, 3), (4, 5, 6))
    ]
    assert [sorted(epoch, key=repr) for epoch in epochs] == [sorted(dataset.samples, key=repr)] * 2
    assert epochs[0] != epochs[1]


def test_order_depends_on_seed_stream_and_epoch() -> None:
    base: dict[str, Any] = {"seed": 1, "stream": "a", "epoch": 0}
    orders = [epoch_permutation(50, **(base | change)) for change in ({}, {"seed": 2}, {"stream": "b"}, {"epoch": 1})]
    assert len(set(orders)) == 4
    assert orders[0] == epoch_permutation.__wrapped__(50, **base)


def test_prompts_carry_their_line_as_uid(tmp_path: Path) -> None:
    path = tmp_path / "rl.jsonl"
    path.write_text('{"prompt": "w0 w1", "answer": "x"}\n\n{"prompt": "w2", "answer": "y"}\n')
    prompts = load_prompts(PromptData(path=str(path)), TOKENIZER, 2)
    assert [(prompt.uid, prompt.token_ids, prompt.answer) for prompt in prompts] == [(0, (3, 4), "x"), (2, (5,), "y")]
    assert load_prompts(PromptData(path=str(path)), TOKENIZER, 2, limit=1) == prompts[:1]


def test_a_prompt_without_room_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rl.jsonl", [{"prompt": "w0 w1", "answer": "x"}])
    with pytest.raises(ConfigError, match="line 1: the prompt has 2 tokens, but 1 to 1 fit"):
        load_prompts(PromptData(path=path), TOKENIZER, 1)


@given(num_prompts=st.integers(1, 20), per_step=st.integers(1, 45), seed=st.integers(0, 9))
def test_steps_walk_through_whole_permutations(num_prompts: int, per_step: int, seed: int) -> None:
    steps = [prompt_indices_for_step(num_prompts, per_step, step, seed) for step in range(1, 6)]
    assert [len(indices) for indices in steps] == [per_step] * 5
    walked = [index for indices in steps for index in indices]
    for start in range(0, len(walked) - num_prompts + 1, num_prompts):
        assert sorted(walked[start : start + num_prompts]) == list(range(num_prompts))


def test_step_0_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        prompt_indices_for_step(4, 2, 0, seed=0)


def _append_end() -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
