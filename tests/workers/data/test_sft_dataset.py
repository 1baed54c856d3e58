"""From records of each kind to samples: what is held out, dropped or cut, and what the lineage says."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.data import ChatSpec, SupervisedData
from service.contract.records import Message, TextPair
from service.contract.stages import SftSpec
from tests.workers.data.chat_templates import CHATML, THINKING, byte_tokenizer
from tests.workers.tiny_model import make_pairs, make_sft_spec, make_tokenizer, write_lines
from workers.config_error import ConfigError
from workers.data.length_limit import truncated
from workers.data.lineage import prompt_fraction, tokenizer_sha256
from workers.data.sft_dataset import load_sft_dataset, read_sft_data
from workers.data.token_sequence import TokenSequence
from workers.data.token_store import TokenStore

WORDS = make_tokenizer()
BYTES = byte_tokenizer()

tokens = st.lists(st.integers(0, 2**20), min_size=1, max_size=6).map(tuple)


@st.composite
def sequences(draw: st.DrawFn) -> TokenSequence:
    completion = draw(tokens)
    flags = draw(st.lists(st.booleans(), min_size=len(completion), max_size=len(completion)).map(tuple))
    flags = (True, *flags[1:])
    return TokenSequence(
        prompt_token_ids=draw(tokens),
        completion_token_ids=completion,
        is_trained=None if all(flags) else flags,
    )


def chat_spec(path: Path, rows: list[dict[str, Any]], *, template: str = CHATML, **changes: Any) -> SftSpec:
    """64 tokens at most; `changes` are those of the data."""
    data = SupervisedData(path=write_lines(path, rows), chat=ChatSpec(template=template), **changes)
    return make_sft_spec(data.path, max_length=64).model_copy(update={"data": data})


def decoded(samples: Iterable[TokenSequence]) -> list[tuple[str, str]]:
    return [(BYTES.decode(s.prompt_token_ids), BYTES.decode(s.completion_token_ids)) for s in samples]


@given(rows=st.lists(sequences(), max_size=5))
def test_a_store_gives_back_what_it_was_given(rows: list[TokenSequence]) -> None:
    store = TokenStore()
    for row in rows:
        store.append(row)
    assert list(store) == rows
    assert store[1:] == rows[1:]
    assert store.lengths() == [row.num_tokens for row in rows]
    assert store.num_tokens == sum(store.lengths())


def test_a_store_has_an_end() -> None:
    with pytest.raises(IndexError):
        TokenStore()[0]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_token_ids": (1, 9)},
        {"prompt_token_ids": (1, 2, 3), "completion_token_ids": (4,), "is_trained": None},
        {"is_trained": (True, True)},
    ],
)
def test_a_digest_sees_tokens_prompts_and_masks(change: dict[str, Any]) -> None:
    base = {"prompt_token_ids": (1, 2), "completion_token_ids": (3, 4), "is_trained": (True, False)}
    digests = set()
    for settings in (base, base | change):
        store = TokenStore()
        store.append(TokenSequence(**settings))
        digests.add(store.digest())
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("row", "changes"),
    [
        ({"prompt": "Hello", "completion": "It is 4."}, {}),
        ({"question": "Hello", "response": "It is 4."}, {"records": "question_answer", "answer_field": "response"}),
        (
            {
                "talk": [
                    {"role": "user", "content": "Hello"},
                    {"role": "assistant", "content": "It is 4.", "name": None},
                ]
            },
            {"records": "messages", "messages_field": "talk"},
        ),
    ],
)
def test_every_kind_of_record_is_the_same_conversation(tmp_path: Path, row: Any, changes: Any) -> None:
    dataset = load_sft_dataset(chat_spec(tmp_path / "rows.jsonl", [row], **changes), BYTES)
    asked = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert decoded(dataset.samples) == [(asked, "It is 4.<|im_end|>")]


def test_later_turns_of_the_user_are_not_trained(tmp_path: Path) -> None:
    roles = ("user", "assistant", "user", "assistant")
    row = {"messages": [{"role": role, "content": f"Hello {index}"} for index, role in enumerate(roles)]}
    [sample] = load_sft_dataset(chat_spec(tmp_path / "rows.jsonl", [row], records="messages"), BYTES).samples
    assert sample.is_trained is not None and sample.is_trained[0] and sample.is_trained[-1]
    assert BYTES.decode(sample.label_token_ids) == "Hello 1<|im_end|>Hello 3<|im_end|>"


def test_altered_turns_make_several_samples_of_one_record(tmp_path: Path) -> None:
    roles = ("user", "assistant", "user", "assistant")
    row = {"messages": [{"role": role, "content": f"Hello {index}"} for index, role in enumerate(roles)]}
    spec = chat_spec(tmp_path / "rows.jsonl", [row], template=THINKING, records="messages")
    dataset = load_sft_dataset(spec, BYTES)
    assert (dataset.num_records, len(dataset.samples)) == (1, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"promt": "w1", "completion": "w2"}, r"line 3: no key 'prompt'; did you mean 'promt'\?"),
        ({"a": 1, "b": 2}, "its keys are: a, b"),
        ({"prompt": "w1", "completion": 7}, "line 3: 'completion' is 7, which is no text; put the value into quotes"),
        ({"prompt": "w1", "completion": " "}, "line 3: 'completion' is empty"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [*make_pairs(2), row])
    with pytest.raises(ConfigError, match=message):
        load_sft_dataset(make_sft_spec(path), WORDS)


def test_a_conversation_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": "Hello", "completion": text} for text in ("Hi", "Hi<|im_end|>")]
    with pytest.raises(ConfigError, match="line 2: an answer holds"):
        load_sft_dataset(chat_spec(tmp_path / "rows.jsonl", rows), BYTES)


def held_out_prompts(path: str, fraction: float) -> set[tuple[int, ...]]:
    dataset = load_sft_dataset(make_sft_spec(path, holdout_fraction=fraction, num_eval_samples=None), WORDS)
    assert not {s.prompt_token_ids for s in dataset.samples} & {s.prompt_token_ids for s in dataset.held_out}
    return {sample.prompt_token_ids for sample in dataset.held_out}


def distinct_pairs(num_pairs: int) -> list[dict[str, str]]:
    return [{"prompt": f"w{i % 20} w{i // 20}", "completion": f"w{j}"} for i in range(num_pairs) for j in (0, 1)]


def test_equal_prompts_stay_together_and_further_records_move_none(tmp_path: Path) -> None:
    few = held_out_prompts(write_lines(tmp_path / "few.jsonl", distinct_pairs(100)), 0.3)
    many = held_out_prompts(write_lines(tmp_path / "many.jsonl", distinct_pairs(200)), 0.3)
    wide = held_out_prompts(write_lines(tmp_path / "few.jsonl", distinct_pairs(100)), 0.6)
    assert 15 < len(few) < 45
    assert few < many
    assert few < wide


def test_the_split_goes_by_the_prompt_alone() -> None:
    assert (
        prompt_fraction(TextPair("a", "b"))
        == prompt_fraction(TextPair("a", "c"))
        != prompt_fraction(TextPair("b", "b"))
    )
    talk = (Message("user", "a"), Message("assistant", "b"))
    assert prompt_fraction(talk) == prompt_fraction((talk[0], Message("assistant", "c"), *talk))


def test_so_many_held_out_samples_are_measured(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", distinct_pairs(100))
    dataset = load_sft_dataset(make_sft_spec(path, holdout_fraction=0.3, num_eval_samples=5), WORDS)
    assert len(dataset.held_out) == 5
    assert dataset.num_held_out + len(dataset.samples) == dataset.num_records == 200


def test_held_out_samples_may_come_from_a_source_of_their_own(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", make_pairs(10))
    other = tmp_path / "eval.csv"
    with other.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion"], ["w0", "w1"], ["w2", "w3"]])
    eval_data = SupervisedData(type="csv", path=str(other))
    dataset = load_sft_dataset(make_sft_spec(path, eval_data=eval_data), WORDS)
    assert (len(dataset.samples), len(dataset.held_out)) == (10, 2)
    assert dataset.digest() == load_sft_dataset(make_sft_spec(path), WORDS).digest()
    assert dataset.lineage != load_sft_dataset(make_sft_spec(path), WORDS).lineage


def test_a_share_that_holds_out_nothing_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", make_pairs(3))
    with pytest.raises(ConfigError, match="holds out none of 3 records"):
        load_sft_dataset(make_sft_spec(path, holdout_fraction=1e-9), WORDS)
    with pytest.raises(ConfigError, match="leaves no sample to train"):
        load_sft_dataset(make_sft_spec(path, holdout_fraction=0.999999), WORDS)


def test_truncated_samples_lose_their_end_and_are_counted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", make_pairs(10))
    spec = make_sft_spec(path, max_length=7, overlong="truncate", max_overlong_fraction=0.2)
    dataset = load_sft_dataset(spec, WORDS)
    assert (dataset.num_truncated, dataset.num_dropped, len(dataset.samples)) == (2, 0, 10)
    cut = [sample for sample in dataset.samples if sample.completion_token_ids[-1] != WORDS.eos_token_id]
    assert [sample.num_tokens for sample in cut] == [7, 7]


def test_a_truncated_sample_without_a_trained_token_is_dropped(tmp_path: Path) -> None:
    rows = [*make_pairs(3), {"prompt": "w1 " * 9, "completion": "w2"}]
    spec = make_sft_spec(write_lines(tmp_path / "rows.jsonl", rows), max_length=8, overlong="truncate")
    dataset, refusals = read_sft_data(spec, WORDS)
    assert (dataset.num_truncated, dataset.num_dropped, len(dataset.samples)) == (0, 1, 3)
    assert "1 of 4 samples" in refusals[0] and "25.0%, more than max_overlong_fraction 0.1" in refusals[0]


def test_a_cut_within_the_users_turn_ends_with_the_last_trained_token() -> None:
    sample = TokenSequence(
        prompt_token_ids=(1,), completion_token_ids=(2, 3, 4, 5), is_trained=(True, False, False, True)
    )
    assert truncated(sample, 4) == TokenSequence(prompt_token_ids=(1,), completion_token_ids=(2,))
    assert truncated(sample, 1) is None


def test_the_lineage_is_that_of_the_texts_and_not_of_the_file(tmp_path: Path) -> None:
    rows = make_pairs(4)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    table = SupervisedData(type="parquet", path=str(tmp_path / "rows.parquet"))
    lines = make_sft_spec(write_lines(tmp_path / "rows.jsonl", rows))
    one, other = (load_sft_dataset(s, WORDS) for s in (lines, lines.model_copy(update={"data": table})))
    assert one.lineage == other.lineage
    assert one.digest() == other.digest()
    assert one.lineage.template_sha256 is None


def test_the_lineage_sees_data_tokenizer_and_template(tmp_path: Path) -> None:
    row = {"prompt": "Hello", "completion": "Hi"}
    base = load_sft_dataset(chat_spec(tmp_path / "a.jsonl", [row]), BYTES).lineage
    data = load_sft_dataset(chat_spec(tmp_path / "b.jsonl", [row | {"completion": "Ho"}]), BYTES).lineage
    template = load_sft_dataset(chat_spec(tmp_path / "a.jsonl", [row], template="{# other #}" + CHATML), BYTES).lineage
    assert base.data_sha256 != data.data_sha256 and base.template_sha256 == data.template_sha256
    assert base.template_sha256 != template.template_sha256 and base.data_sha256 == template.data_sha256
    assert len({lineage.lineage_sha256 for lineage in (base, data, template)}) == 3
    assert tokenizer_sha256(BYTES) != tokenizer_sha256(WORDS)


def test_a_tokenizers_digest_does_not_depend_on_how_it_was_called() -> None:
    tokenizer = byte_tokenizer()
    before = tokenizer_sha256(tokenizer)
    tokenizer(["Hello", "Hello there"], padding=True, truncation=True, max_length=3)
    assert tokenizer_sha256(tokenizer) == before


def test_only_the_first_records_are_read_where_so_many_are_asked_for(tmp_path: Path) -> None:
    spec = make_sft_spec(write_lines(tmp_path / "rows.jsonl", make_pairs(10)))
    dataset, _ = read_sft_data(spec, WORDS, max_records=4)
    assert (dataset.num_records, dataset.is_cut_short) == (4, True)
    dataset, _ = read_sft_data(spec, WORDS, max_records=10)
    assert (dataset.num_records, dataset.is_cut_short) == (10, False)
