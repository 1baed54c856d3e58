"""Every source is looked through at submission: rows counted, records and gold answers read as the run reads them."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.contract.data import ChatSpec, PromptData, SupervisedData
from service.contract.rewards import CombinedReward, ExactMatchReward, MathAnswerReward, RewardPart
from service.contract.spec import ExperimentSpec
from service.planning import record_readers
from service.planning.chat_checks import find_missing_templates, has_chat_template, warn_of_chats
from service.planning.data_files import DataFacts, DataQuestion, inspect_data
from service.planning.deadline import Deadline

PAIRS = [{"prompt": "a\nb", "completion": "c"}, {"prompt": "d", "completion": ""}]


def inspect(data: SupervisedData | PromptData, **changes: Any) -> DataFacts:
    return inspect_data(DataQuestion(where="sft.data", data=data, **changes), Deadline.after(30))


def problems(facts: DataFacts) -> dict[str, str]:
    return {finding.field: f"{finding.problem} | {finding.hint}" for finding in facts.findings}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def write_saved(folder: Path, rows: list[dict[str, Any]]) -> str:
    """As `save_to_disk` does."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(folder / "data-0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-0.arrow"}]}')
    return str(folder)


def test_a_table_names_its_rows(tmp_path: Path) -> None:
    facts = inspect(SupervisedData(type="parquet", path=write_parquet(tmp_path / "rows.parquet", PAIRS)))
    assert facts.num_rows == 2
    assert problems(facts) == {"sft.data.completion_field": "row 2: 'completion' is empty | fill it or drop the row"}


def test_csv_values_may_hold_line_breaks(tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion"], ["a\nb", "c, d"], ["x"], ["d", " "]])
    facts = inspect(SupervisedData(type="csv", path=str(tmp_path / "rows.csv")))
    assert facts.num_rows == 3
    found = problems(facts)
    assert found["sft.data.path"].startswith("row 2: 1 values under 2 column names")
    assert found["sft.data.completion_field"].startswith("row 3: 'completion' is empty")


def test_a_saved_dataset_is_looked_through(tmp_path: Path) -> None:
    data = SupervisedData(type="huggingface", path=write_saved(tmp_path / "saved", PAIRS))
    assert inspect(data).num_rows == 2
    assert "row 2" in problems(inspect(data))["sft.data.completion_field"]


def test_the_split_of_a_saved_dataset_is_found(tmp_path: Path) -> None:
    write_saved(tmp_path / "test", PAIRS[:1])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test"]}')
    data = {"type": "huggingface", "path": str(tmp_path)}
    assert inspect(SupervisedData(**data, split="test")) == DataFacts(num_rows=1, findings=[])
    assert "no split 'train'" in problems(inspect(SupervisedData(**data)))["sft.data.path"]


def test_what_only_the_run_can_read_is_said_to_be_unchecked(tmp_path: Path) -> None:
    hub = inspect(SupervisedData(type="huggingface", path="owner/name", revision="a" * 40))
    assert (hub.num_rows, hub.findings) == (None, [])
    assert "owner/name lies on the hub" in hub.warnings[0]
    repository = inspect(SupervisedData(type="huggingface", path=str(tmp_path)))
    assert "dataset repository" in repository.warnings[0]


@pytest.mark.parametrize("kind", ["parquet", "huggingface", "csv"])
def test_a_missing_source_is_refused(tmp_path: Path, kind: Any) -> None:
    facts = inspect(SupervisedData(type=kind, path=str(tmp_path / "nowhere")))
    assert "does not exist" in problems(facts)["sft.data.path"]


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"prompt": "a", "completion": "b"}\n')
    facts = inspect(SupervisedData(type="parquet", path=str(tmp_path / "rows")))
    assert "check that it is parquet" in problems(facts)["sft.data.path"]


def test_a_large_table_is_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_readers, "MAX_BYTES", 30_000)
    path = write_parquet(tmp_path / "rows.parquet", [{"prompt": f"p{n}", "completion": "c"} for n in range(5000)])
    facts = inspect(SupervisedData(type="parquet", path=path))
    assert facts.num_rows == 5000
    assert "only the first 2048 of 5000 rows" in facts.warnings[0]


def test_conversations_are_read_as_the_run_reads_them(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "human", "content": "a"}]},
    ]
    data = SupervisedData(type="parquet", path=write_parquet(tmp_path / "rows.parquet", rows), records="messages")
    assert [finding.problem for finding in inspect(data).findings] == [
        "row 2: no message is the assistant's, so nothing is trained",
        "row 3: messages[0] has the role 'human'",
    ]


def test_only_the_rows_that_are_used_are_judged(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [{"prompt": "a", "answer": "b"}, {"prompt": "a", "answer": " "}])
    data = PromptData(type="parquet", path=path)
    assert inspect(data, reward=ExactMatchReward(), limit=1) == DataFacts(num_rows=1, findings=[])
    assert "row 2" in problems(inspect(data, reward=ExactMatchReward()))["sft.data.answer_field"]


def spec(**changes: Any) -> ExperimentSpec:
    data = {"path": "/rows.jsonl", **changes}
    sft = {"data": data, "optimizer": {"learning_rate": 1e-3}, "num_epochs": 1, "batch_size": 1}
    evaluation = {"data": {"path": "/rows.jsonl"}, "reward": {"type": "exact_match"}, "max_completion_length": 8}
    return ExperimentSpec.model_validate({"name": "x", "model": {"path": "/m"}, "sft": sft, "evaluation": evaluation})


@pytest.mark.parametrize(
    ("data", "has_template", "fields"),
    [
        ({"records": "messages"}, False, ["sft.data.chat.template"]),
        ({"records": "messages"}, True, []),
        ({"records": "messages"}, None, []),
        ({"records": "messages", "chat": ChatSpec(template="x").model_dump()}, False, []),
        ({}, False, []),
    ],
)
def test_conversations_need_a_template(data: dict[str, Any], has_template: bool | None, fields: list[str]) -> None:
    assert [finding.field for finding in find_missing_templates(spec(**data), has_template)] == fields


def test_prompts_in_another_form_than_trained_are_warned_of() -> None:
    [warning] = warn_of_chats(spec(records="question_answer"))
    assert warning.startswith("evaluation.data.chat differs from the chat of sft.data")
    assert not list(warn_of_chats(spec()))


def test_a_template_may_stand_in_either_file(tmp_path: Path) -> None:
    assert not has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert not has_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("x")
    assert has_chat_template(tmp_path)


def test_gold_answers_are_read_by_every_part_of_a_reward(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [{"prompt": "p", "answer": "{1"}])
    parts = [RewardPart(name="a", reward=ExactMatchReward()), RewardPart(name="b", reward=MathAnswerReward())]
    facts = inspect(PromptData(type="parquet", path=path), reward=CombinedReward(parts=parts))
    assert "braces that do not match" in problems(facts)["sft.data.answer_field"]


MATH = CombinedReward(parts=[RewardPart(name="a", reward=MathAnswerReward())])


def test_gold_answers_in_mathematics_are_parsed(tmp_path: Path) -> None:
    golds = [r"\\frac{1}{2}", "x^2 + 1", r"\\frac{1}{} +", "42", "+"]
    rows = [{"prompt": "p", "answer": gold} for gold in golds]
    facts = inspect(PromptData(type="parquet", path=write_parquet(tmp_path / "rows.parquet", rows)), reward=MATH)
    found = problems(facts)["sft.data.answer_field"]
    assert found.count("cannot be parsed by math-verify") == 2
    assert "row 3" in found and "row 5" in found
    assert facts.warnings == ()


@pytest.mark.parametrize("script", ["echo null; sleep 60", "echo null; exit 1", "printf 'null\\nnu'"])
def test_what_could_not_be_parsed_in_time_is_warned_of(tmp_path: Path, script: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    path = write_parquet(tmp_path / "rows.parquet", [{"prompt": "p", "answer": "1"}] * 3)
    question = DataQuestion(
        where="rl.data", data=PromptData(type="parquet", path=path), reward=MATH, workers_python=str(python)
    )
    facts = inspect_data(question, Deadline.after(2))
    assert facts.findings == []
    assert facts.warnings[0].startswith("rl.data: 1 gold answers were parsed as mathematics, not all")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_windows_expected_rows_and_rows_without_answer_are_seen_at_submission(tmp_path: Path, kind: str) -> None:
    rows = [{"prompt": "a", "answer": answer} for answer in ("1", "", "2", "3")]
    path = str(tmp_path / "rows")
    if kind == "parquet":
        write_parquet(Path(path), rows)
    else:
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = PromptData(type=kind, path=path, without_answer="drop", expected_rows=4)
    assert inspect(data).num_rows == 3
    assert inspect(data.model_copy(update={"skip_rows": 1, "num_rows": 2})).num_rows == 1
    assert inspect(data, limit=2).num_rows == 2
    [problem] = problems(inspect(data.model_copy(update={"expected_rows": 5}))).values()
    assert "holds 4 rows, not the 5 that are expected" in problem
    assert "'answer' is empty" in str(problems(inspect(data.model_copy(update={"without_answer": "error"}))))
