"""The search through stored completions, on files that the workers wrote."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from service.contract.stored_rollouts import COLUMNS, RolloutColumn, RolloutFilter
from service.errors import QueryTooSlow
from service.stored_rollouts import Place, Search
from service.stored_rollouts.export import export_chunks
from tests.rollout_files import write_steps

ALL: list[RolloutColumn] = [column for column in COLUMNS if column != "reward_parts"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nine steps."""
    folder = str(tmp_path_factory.mktemp("output"))
    write_steps(folder, range(1, 10))
    return folder


def search(output: str, *, order: Any = "step", start: Place | None = None, **wanted: Any) -> Search:
    return Search(
        output_dir=output,
        wanted=RolloutFilter(**wanted),
        columns=ALL,
        part_names=["value", "form"],
        order=order,
        start=start,
    )


def rows(output: str, limit: int = 500, **changes: Any) -> Iterator[dict[str, Any]]:
    """All that is found, page after page; `options` are those of a page."""
    options = changes.pop("options", {})
    start: Place | None = None
    while True:
        page = search(output, start=start, **changes).page(limit, **options)
        assert page.table.num_rows <= limit
        yield from page.table.to_pylist()
        if page.next_place is None:
            return
        assert page.next_place != start
        start = page.next_place


FILTERS: list[tuple[dict[str, Any], int]] = [
    ({}, 72),
    ({"from_step": 2, "to_step": 3}, 16),
    ({"from_step": 8}, 16),
    ({"min_reward": 0.5, "max_reward": 1.0}, 36),
    ({"min_reward": 1.25}, 18),
    ({"min_tokens": 2, "max_tokens": 2}, 18),
    ({"policy_version": 4}, 6 + 2),
    ({"min_age": 1}, 18),
    ({"max_age": 0}, 54),
    ({"prompt_uid": 7}, 36),
    ({"prompt_uid": 1, "min_reward": 1.5}, 3),
    ({"finish_reason": "length"}, 18),
    ({"contains": "answers no (100%)"}, 36),
    ({"contains": "100_"}, 0),
    ({"prompt_contains": "Question 7"}, 36),
    ({"store": "whole"}, 24),
    ({"store": "whole", "prompt_uid": 0}, 12),
    ({"from_step": 100}, 0),
]


@pytest.mark.parametrize(("filters", "number"), FILTERS, ids=[str(filters) for filters, _ in FILTERS])
def test_filters_let_pass_what_they_say(output: str, filters: dict[str, Any], number: int) -> None:
    assert len(list(rows(output, **filters))) == number


@pytest.mark.parametrize("limit", [1, 7, 8, 500])
@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("step", lambda one: (one["step"],)),
        ("-step", lambda one: (-one["step"],)),
        ("reward", lambda one: (one["reward"], one["step"])),
        ("-reward", lambda one: (-one["reward"], one["step"])),
        ("num_tokens", lambda one: (one["num_tokens"], one["step"])),
        ("-num_tokens", lambda one: (-one["num_tokens"], one["step"])),
    ],
)
def test_pages_of_any_size_give_everything_once_and_in_order(output: str, order: str, key: Any, limit: int) -> None:
    found = list(rows(output, limit, order=order, to_step=3))
    assert [key(one) for one in found] == sorted(key(one) for one in found)
    assert len({(one["step"], one["prompt_uid"], one["sample_index"]) for one in found}) == len(found) == 24
    within = [(one["prompt_uid"] == 7, one["sample_index"]) for one in found if one["step"] == 2]
    if order.lstrip("-") == "step":
        assert within == sorted(within), "a step's rows keep their order"


@pytest.mark.parametrize("order", ["step", "-step"])
def test_a_page_whose_time_is_over_says_where_to_go_on(output: str, order: str) -> None:
    page = search(output, order=order, prompt_uid=7).page(500, within_s=0.0)
    assert page.table.num_rows == 4
    assert page.next_place is not None
    assert len(list(rows(output, order=order, options={"within_s": 0.0}))) == 72
    assert len(list(rows(output, order=order, prompt_uid=99, options={"within_s": 0.0}))) == 0


def test_an_order_by_value_that_cannot_see_everything_in_time_is_refused(output: str) -> None:
    with pytest.raises(QueryTooSlow, match="must see all 9 steps and has seen 0"):
        search(output, order="reward").page(5, within_s=0.0)


@pytest.mark.parametrize("order", ["step", "-step", "reward", "-num_tokens"])
@pytest.mark.parametrize("max_bytes", [1, 700, 5000])
def test_a_page_keeps_to_its_bytes_but_for_one_row(output: str, order: str, max_bytes: int) -> None:
    first = search(output, order=order).page(500, max_bytes=max_bytes)
    assert first.table.num_rows == 1 or first.table.nbytes <= 1.01 * max_bytes
    found = list(rows(output, order=order, options={"max_bytes": max_bytes}))
    assert found == list(rows(output, order=order))
    assert len(found) == 72


def test_outputs_may_lie_at_a_url(output: str) -> None:
    fsspec.filesystem("memory").put(f"{output}/", "/searched/", recursive=True)
    for order in ("-step", "reward"):
        assert list(rows("memory://searched", order=order, contains="yes")) == list(
            rows(output, order=order, contains="yes")
        )


def test_large_steps_are_read_some_rows_at_a_time(tmp_path: Path) -> None:
    write_steps(str(tmp_path), range(3, 4))
    path = tmp_path / "rollouts" / "rl" / "step-00000003.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=3)
    asked = {"store": "whole", "order": "-reward"}
    assert [one["reward"] for one in rows(str(tmp_path), 2, **asked)] == [1.5, 1.5, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    assert [one["prompt_uid"] for one in rows(str(tmp_path), 3, store="whole", min_reward=1.5)] == [0, 7]
    assert [table.num_rows for table in search(str(tmp_path), store="whole", min_reward=1.5).tables()] == [1, 1], (
        "the first three rows are not read: their statistics exclude them"
    )


def test_files_of_the_first_format_are_read_too(tmp_path: Path) -> None:
    write_steps(str(tmp_path), range(3, 4))
    path = tmp_path / "rollouts" / "rl" / "step-00000003.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["step", "age", "version_spans"]), path)
    found = list(rows(str(tmp_path), store="whole", prompt_uid=7))
    assert [(one["step"], one["age"], one["version_spans"]) for one in found] == [(3, None, None)] * 4
    assert list(rows(str(tmp_path), store="whole", max_age=5)) == []


def test_an_export_is_written_piece_by_piece(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.stored_rollouts.export._ROWS_PER_GROUP", 20)
    pieces = list(export_chunks(search(output), None, {"experiment": "exp-1"}))
    assert len(pieces) == 10, "one for each step, and the table of contents"
    (tmp_path / "all.parquet").write_bytes(b"".join(pieces))
    file = pq.ParquetFile(tmp_path / "all.parquet")
    assert (file.metadata.num_rows, file.num_row_groups) == (72, 3)
    assert file.read().select(ALL).to_pylist() == list(rows(output))
    (tmp_path / "cut.parquet").write_bytes(b"".join(pieces[:-1]))
    with pytest.raises(ValueError, match="magic bytes not found"):
        pq.ParquetFile(tmp_path / "cut.parquet")
