"""Every figure of a report as one row of one table, for CSV and Parquet.

`kind` says which: `result`, `comparison`, `pass_curve`, `diversity`, `association`, `step_curve`, `cost`. `x` is what a
figure stands over, named by `x_name`: k, or the step. Scores and differences are shares of 1.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.study_report import ArmCost, Figure, StudyPart, StudyReport

SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("kind", pa.string()),
        ("arm", pa.string()),
        ("baseline", pa.string()),
        ("point", pa.string()),
        ("column", pa.string()),
        ("metric", pa.string()),
        ("x_name", pa.string()),
        ("x", pa.float64()),
        ("mean", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("num_units", pa.int64()),
        ("num_runs", pa.int64()),
        ("p_value", pa.float64()),
        ("p_adjusted", pa.float64()),
        ("is_primary", pa.bool_()),
        ("is_marked", pa.bool_()),
        ("source", pa.string()),
    ]
)
"""`is_marked`: the clear best of its stage, or a distinguishable difference."""

TableRow = dict[str, Any]


def report_rows(report: StudyReport) -> Iterator[TableRow]:
    """With the keys of the schema that a row has something for."""
    for place, part in enumerate(report.parts, 1):
        for row in _of_part(part):
            yield {"part": place, **row}
    for cost in report.costs:
        yield from _of_cost(cost)


def report_csv(report: StudyReport) -> bytes:
    """With a head line; UTF-8."""
    text = io.StringIO()
    writer = csv.DictWriter(text, SCHEMA.names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(report_rows(report))
    return text.getvalue().encode()


def report_parquet(report: StudyReport) -> bytes:
    """The same, typed; the file's metadata holds study and time under `sedray`."""
    rows = [{name: row.get(name) for name in SCHEMA.names} for row in report_rows(report)]
    about = {"study": report.study_id, "made_at": report.made_at.isoformat()}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(about)), sink)
    return sink.getvalue()


def _of_part(part: StudyPart) -> Iterator[TableRow]:
    for row in part.table.rows:
        for column, cell in zip(part.table.columns, row.cells, strict=True):
            if cell.figure is not None:
                place = {"arm": row.arm, "point": row.point, "column": column.key, "metric": column.metric}
                marks = {"is_marked": cell.is_best, "source": row.source}
                yield {"kind": "result", **place, **_figure(cell.figure), **marks}
    for one in part.comparisons:
        known = one.model_dump(include={"arm", "baseline", "point", "column", "metric", "p_value", "p_adjusted"})
        marks = {"is_primary": one.is_primary, "is_marked": one.is_distinguishable}
        yield {"kind": "comparison", **known, **marks, **_figure(one.difference)}
    for curve in part.pass_curves:
        place = {"arm": curve.arm, "point": curve.point, "column": curve.column, "x_name": "k"}
        for k, figure in zip(curve.ks, curve.figures, strict=True):
            yield {"kind": "pass_curve", **place, "metric": f"pass@{k}", "x": k, **_figure(figure)}
    for found in part.diversity:
        known = found.model_dump(include={"arm", "point", "column", "metric"})
        yield {"kind": "diversity", **known, **_figure(found.figure)}
    yield from _of_associations(part)
    yield from _of_curves(part)


def _of_associations(part: StudyPart) -> Iterator[TableRow]:
    for row in part.associations:
        for name in ("pearson", "spearman", "slope"):
            bounds = getattr(row, name)
            if bounds.value is not None:
                numbers = {"mean": bounds.value, "low": bounds.low, "high": bounds.high}
                counts = {"num_units": row.num_clusters, "num_runs": row.num_runs}
                what = {"metric": f"{name} of {row.y} by {row.x}"}
                yield {"kind": "association", **what, **numbers, **counts}


def _of_curves(part: StudyPart) -> Iterator[TableRow]:
    for curve in part.step_curves:
        place = {"arm": curve.arm, "metric": curve.metric, "x_name": "step"}
        counts = {"num_units": curve.num_units, "num_runs": curve.num_runs}
        for step, mean, low, high in zip(curve.steps, curve.mean, curve.low, curve.high, strict=True):
            yield {"kind": "step_curve", **place, "x": step, "mean": mean, "low": low, "high": high, **counts}


def _of_cost(cost: ArmCost) -> Iterator[TableRow]:
    figures = {f"{phase.phase}, {name}": getattr(phase, name) for phase in cost.phases for name in _PHASE}
    figures |= {name: getattr(cost, name) for name in _COST}
    for metric, value in figures.items():
        yield {"kind": "cost", "arm": cost.arm, "metric": metric, "mean": value, "num_runs": cost.num_runs}


_PHASE = ("wall_s", "gpu_s", "cpu_s")
_COST = (
    "held_gpu_s",
    "held_cpu_s",
    "wasted_gpu_s",
    "wasted_cpu_s",
    "sft_tokens_trained",
    "rl_tokens_trained",
    "rl_tokens_generated",
    "evaluation_tokens_generated",
)


def _figure(figure: Figure) -> TableRow:
    return figure.model_dump()
