"""The Countdown task's problems, traces and shipped files are what its README says."""

import json
import random
from itertools import combinations
from pathlib import Path

import pytest
from make_task import CHECKED_FILES, HERE, changed_files
from task import all_problems, biased_solution, legal_traces, random_solution, same_problem_key, shuffled
from transformers import AutoTokenizer
from verify import score

from service.contract.gold_answers import CountdownGold, parse_countdown_gold
from workers.rewards.countdown import verify_countdown

SPLITS = ("sft", "rl", "dev", "test")


def shipped_problems(split: str) -> list[CountdownGold]:
    """Problems as the prompts of a shipped file state them."""
    rows = map(json.loads, (HERE / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines())
    return [parse_countdown_gold(row["prompt"].removesuffix(" :")) for row in rows]


def shipped_rows(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (HERE / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_no_two_splits_share_a_problem_in_any_number_order() -> None:
    keys = {split: {same_problem_key(problem) for problem in shipped_problems(split)} for split in SPLITS}
    assert all(not keys[one] & keys[other] for one, other in combinations(SPLITS, 2))


def test_no_split_holds_a_problem_twice_and_sizes_are_as_documented() -> None:
    sizes = {split: len({same_problem_key(problem) for problem in shipped_problems(split)}) for split in SPLITS}
    assert sizes == {split: len(shipped_rows(split)) for split in SPLITS}
    assert sizes == {"sft": 600, "rl": 2250, "dev": 256, "test": 256}


def test_every_sft_completion_is_the_biased_solution_and_right() -> None:
    for row, problem in zip(shipped_rows("sft"), shipped_problems("sft"), strict=True):
        assert row["completion"] == biased_solution(problem)
        assert verify_countdown(row["completion"], problem)


@pytest.mark.parametrize("split", ["rl", "dev", "test"])
def test_every_gold_answer_states_its_prompt_and_can_be_solved(split: str) -> None:
    for row in shipped_rows(split):
        gold = parse_countdown_gold(row["answer"])
        assert row["prompt"] == f"{gold} :"
        assert legal_traces(gold)


def test_number_order_changes_neither_problem_nor_number_of_traces() -> None:
    rng = random.Random(3)
    for problem in rng.sample(all_problems(), 50):
        other = shuffled(problem, rng)
        assert same_problem_key(other) == same_problem_key(problem)
        assert set(legal_traces(other)) == set(legal_traces(problem))


def test_random_solution_reaches_every_legal_trace() -> None:
    problem = parse_countdown_gold("2 3 3 -> 3")
    rng = random.Random(0)
    assert {random_solution(problem, rng) for _ in range(300)} == set(legal_traces(problem))


def test_shipped_data_and_tokenizer_are_as_made() -> None:
    assert changed_files(HERE) == []


def test_a_missing_file_counts_as_changed(tmp_path: Path) -> None:
    assert changed_files(tmp_path) == list(CHECKED_FILES)


def test_tokenizer_round_trips_with_one_token_per_word() -> None:
    tokenizer = AutoTokenizer.from_pretrained(HERE / "base")
    for text in ("3 5 7 -> 22 :", "3 * 5 = 15 ; 15 + 7 = 22", "36 / 12 = 3 ; 3 - 0 = 3"):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.split())
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_prompt_and_completion_tokenized_apart_join_to_the_whole() -> None:
    tokenizer = AutoTokenizer.from_pretrained(HERE / "base")
    prompt, completion = "3 5 7 -> 22 :", "3 * 5 = 15 ; 15 + 7 = 22"
    apart = tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"]
    assert apart == tokenizer(f"{prompt} {completion}")["input_ids"]


def test_score_counts_right_rows_and_names_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    row = {"prompt": "3 5 7 -> 22 :", "answer": "3 5 7 -> 22", "completion": "3 * 5 = 15 ; 15 + 7 = 22"}
    path.write_text(json.dumps(row) + "\n\n" + json.dumps(row | {"completion": "22"}) + "\n", encoding="utf-8")
    assert score(path) == (1, 2)
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"answer": "22"}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        score(path)
