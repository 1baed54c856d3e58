"""A paper's rows beside the study's own: marked, without uncertainty, and no part of any comparison."""

from collections.abc import Sequence

from service.contract.published import PublishedRow, PublishedTable, published_table
from service.contract.studies import PublishedRows
from service.contract.study_report import Cell, Column, Figure, Row
from service.study_report.scoring import AVERAGE

SOURCE = "published, single run"
_POINTS = ("after_sft", "after_rl")


def published_rows(wanted: PublishedRows | None, columns: Sequence[Column]) -> list[Row]:
    """Those of the wanted model that have a figure for one of the columns; none where no paper is asked for."""
    if wanted is None:
        return []
    table = published_table(wanted.table)
    rows = [_row(table, row, columns) for point in _POINTS for row in table.rows_of(wanted.model, point)]
    return [row for row in rows if any(cell.figure for cell in row.cells)]


def _row(table: PublishedTable, row: PublishedRow, columns: Sequence[Column]) -> Row:
    return Row(
        point=row.point,
        arm=table.methods[row.method],
        cells=[Cell(figure=_figure(table, row, column, columns)) for column in columns],
        source=SOURCE,
    )


def _figure(table: PublishedTable, row: PublishedRow, column: Column, columns: Sequence[Column]) -> Figure | None:
    """The printed figure is a mean of single samples, so it stands under pass@1 and avg alone."""
    if column.metric != "pass@1" and not column.metric.startswith("avg"):
        return None
    if column.key == AVERAGE:
        is_same = {one.key for one in columns} - {AVERAGE} == set(table.sets)
        return _share(row.average) if is_same else None
    return _share(row.scores[table.sets.index(column.key)]) if column.key in table.sets else None


def _share(per_cent: float) -> Figure:
    return Figure(mean=per_cent / 100, num_units=1, num_runs=1)
