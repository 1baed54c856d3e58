"""Every format gives the same records, and errors name the row."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.contract.data import DataSource
from tests.workers.tiny_model import write_lines
from workers.config_error import ConfigError
from workers.data.hub_datasets import streaming_arguments
from workers.data.sources import read_records, where

ROWS: list[dict[str, Any]] = [{"prompt": "a\nb, c", "completion": "ä"}, {"prompt": '"q"', "completion": "7"}]
KEYS = ("prompt", "completion")


def fields(source: DataSource) -> list[dict[str, Any]]:
    return [record.fields for record in read_records(source, KEYS)]


@pytest.fixture(autouse=True)
def quiet_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write_jsonl(folder: Path) -> DataSource:
    return DataSource(path=write_lines(folder / "rows.jsonl", ROWS))


def write_csv(folder: Path) -> DataSource:
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, KEYS)
        writer.writeheader()
        writer.writerows(ROWS)
    return DataSource(type="csv", path=str(folder / "rows.csv"))


def write_parquet(folder: Path) -> DataSource:
    rows = [row | {"unused": 1} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return DataSource(type="parquet", path=f"file://{folder}/rows.parquet")


def write_saved(folder: Path) -> DataSource:
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return DataSource(type="huggingface", path=str(folder / "saved"))


def write_saved_splits(folder: Path) -> DataSource:
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=rows.select([1]), test=rows).save_to_disk(folder / "splits")
    return DataSource(type="huggingface", path=str(folder / "splits"), split="test")


def write_repository(folder: Path) -> DataSource:
    (folder / "repository" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "repository" / "data" / "train-00000-of-00001.parquet")
    return DataSource(type="huggingface", path=str(folder / "repository"))


@pytest.mark.parametrize(
    "write", [write_jsonl, write_csv, write_parquet, write_saved, write_saved_splits, write_repository]
)
def test_every_format_gives_the_same_records(tmp_path: Path, write: Any) -> None:
    assert fields(write(tmp_path)) == ROWS


def test_messages_survive_parquet(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    [record] = read_records(DataSource(type="parquet", path=str(tmp_path / "rows.parquet")), ("messages",))
    assert record.fields == rows[0]


def test_blank_lines_count_in_places(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    source = DataSource(path=str(tmp_path / "rows.jsonl"))
    assert [record.place for record in read_records(source, ("prompt",))] == [0, 2]
    assert where(source, 2).endswith("rows.jsonl, line 3")


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"prompt": "w1", ', r"line 3: no valid JSON .* column"), ('["w1"]', "line 3: a JSON list, expected an object")],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n\n' + line + "\n")
    with pytest.raises(ConfigError, match=message):
        fields(DataSource(path=str(tmp_path / "rows.jsonl")))


def test_a_csv_row_with_another_number_of_values_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\na,b\na,b,c\n")
    with pytest.raises(ConfigError, match="row 2: 3 values under 2 column names"):
        fields(DataSource(type="csv", path=str(tmp_path / "rows.csv")))


def test_a_long_csv_value_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\n" + "x" * 200_000 + ",b\n")
    assert len(fields(DataSource(type="csv", path=str(tmp_path / "rows.csv")))[0]["prompt"]) == 200_000


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe", "not UTF-8|cannot be read as parquet"), (None, "does not exist")]
)
def test_an_unusable_file_is_a_config_error(tmp_path: Path, kind: Any, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "rows").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        fields(DataSource(type=kind, path=str(tmp_path / "rows")))


@pytest.mark.parametrize(("kind", "content"), [("jsonl", "\n"), ("csv", "prompt,completion\n"), ("csv", "")])
def test_a_file_without_rows_is_a_config_error(tmp_path: Path, kind: Any, content: str) -> None:
    (tmp_path / "rows").write_text(content)
    with pytest.raises(ConfigError, match="holds no rows"):
        fields(DataSource(type=kind, path=str(tmp_path / "rows")))


def test_an_unknown_protocol_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        fields(DataSource(path="nowhere://rows.jsonl"))


def test_a_missing_split_is_answered_with_those_there_are(tmp_path: Path) -> None:
    source = write_saved_splits(tmp_path).model_copy(update={"split": "dev"})
    with pytest.raises(ConfigError, match=r"no split 'dev'; set data\.split to one of train, test"):
        fields(source)
    with pytest.raises(ConfigError, match="without splits"):
        fields(write_saved(tmp_path).model_copy(update={"split": "dev"}))
    with pytest.raises(ConfigError, match="cannot be loaded: Bad split: dev"):
        fields(write_repository(tmp_path).model_copy(update={"split": "dev"}))


def test_a_missing_dataset_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist for this worker"):
        fields(DataSource(type="huggingface", path=str(tmp_path / "nowhere")))


def test_a_hub_dataset_is_asked_for_at_its_revision() -> None:
    source = DataSource(type="huggingface", path="owner/name", revision="a" * 40, config="main", split="test")
    assert streaming_arguments(source) == {
        "path": "owner/name",
        "name": "main",
        "revision": "a" * 40,
        "split": "test",
        "streaming": True,
    }


def test_reading_stops_where_the_reader_does(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\nbroken\n")
    records = read_records(DataSource(path=str(tmp_path / "rows.jsonl")), KEYS)
    assert next(records).fields == ROWS[0]
    records.close()
