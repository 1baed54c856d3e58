from statistics import fmean

import pytest

from service.contract.published import PublishedTable, published_table


def test_every_printed_average_is_the_mean_of_the_printed_cells() -> None:
    table = published_table()
    assert table.is_single_run and len(table.rows) == 20
    for row in table.rows:
        assert row.average == pytest.approx(fmean(row.scores), abs=0.0051), (row.model, row.point, row.method)


def test_rows_are_found_by_model_and_point_in_the_papers_order() -> None:
    table = published_table()
    assert [row.method for row in table.rows_of("llama-3.2-3b", "after_rl")] == list(table.methods)
    assert [row.average for row in table.rows_of("qwen2.5-math-7b", "after_rl")] == [56.0, 55.46, 55.36, 56.6, 57.2]
    assert not table.rows_of("llama-3.2-3b", "base")


def test_a_row_that_does_not_fit_its_head_is_refused() -> None:
    body = published_table().model_dump()
    body["rows"][0]["scores"].pop()
    with pytest.raises(ValueError, match=r"qwen2\.5-math-7b, after_sft, ce does not fit"):
        PublishedTable.model_validate(body)
