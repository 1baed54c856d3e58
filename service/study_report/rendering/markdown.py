"""A report as Markdown."""

from collections.abc import Iterator, Sequence

from service.contract.study_report import ArmComparison, Row, StudyPart, StudyReport
from service.study_report.rendering.markdown_background import cost_lines, provenance_lines
from service.study_report.rendering.markdown_table import escape, table
from service.study_report.rendering.text import (
    NOTHING,
    bounds,
    per_cent,
    plain,
    points,
    seeds,
    verdict,
)
from service.study_report.wording import POINT_NAMES, shown_p


def report_markdown(report: StudyReport) -> str:
    """All of it but curves over steps and scatter plots, whose points are in the other forms."""
    lines = [
        *_head(report),
        *_differing(report),
        *(line for number_, part in enumerate(report.parts, 1) for line in _part(report, part, number_)),
        *cost_lines(report),
        *provenance_lines(report),
    ]
    return "\n".join(lines) + "\n"


def _head(report: StudyReport) -> Iterator[str]:
    yield f"# {escape(report.name)}"
    yield ""
    yield escape(report.question)
    yield ""
    yield f"{report.state} Study {report.study_id}, report of {report.made_at:%Y-%m-%d %H:%M} UTC."
    yield ""
    yield f"Decided by {report.primary}; baseline {escape(report.baseline)}; level {report.alpha:g} over all arms."
    yield ""
    yield "## Answer"
    yield ""
    if not report.answers:
        yield "Nothing can be compared yet."
    yield from (f"- {escape(answer)}" for answer in report.answers)
    yield ""


def _differing(report: StudyReport) -> Iterator[str]:
    if not report.differing:
        return
    yield "## Why there are several tables"
    yield ""
    yield "Runs that were not measured alike do not stand in one table. They differ in:"
    yield ""
    yield from table(
        ["", *(f"part {place}" for place in range(1, len(report.parts) + 1))],
        ([one.name, *one.values] for one in report.differing),
    )


def _part(report: StudyReport, part: StudyPart, place: int) -> Iterator[str]:
    of = f" of part {place}" if len(report.parts) > 1 else ""
    yield f"## Results{of}"
    yield ""
    yield "Per cent; mean ± half the 95 % interval over seeds. Bold: distinguishable from the second of its stage."
    yield ""
    columns = part.table.columns
    yield from table(
        ["point", "arm", *(column.title for column in columns), "seeds"], (_cells(row) for row in part.table.rows)
    )
    yield from (f"{escape(note)}.\n" for note in part.notes)
    yield f"## Against the baseline{of}"
    yield ""
    yield "Differences in points. p is from permutations, corrected by Holm over the arms of a column and point."
    yield ""
    yield from _comparisons(part.comparisons)
    yield from _diversity(part, of)
    yield from _associations(part, of)


def _cells(row: Row) -> list[str]:
    shown = [f"**{per_cent(cell.figure)}**" if cell.is_best else per_cent(cell.figure) for cell in row.cells]
    known = next((cell.figure for cell in row.cells if cell.figure is not None), None)
    arm = f"{row.arm} ({row.source})" if row.source else row.arm
    return [POINT_NAMES[row.point], arm, *shown, NOTHING if row.source else seeds(known)]


def _comparisons(rows: Sequence[ArmComparison]) -> Iterator[str]:
    yield from table(
        ["point", "column", "arm", "difference", "p", "p (Holm)", "pairs of seeds", "verdict"],
        (
            [
                POINT_NAMES[row.point] + (" (primary)" if row.is_primary else ""),
                f"{row.column} {row.metric}",
                f"{row.arm} − {row.baseline}",
                points(row.difference),
                shown_p(row.p_value),
                shown_p(row.p_adjusted),
                str(row.difference.num_units) if row.method == "signs of pairs" else "not paired",
                verdict(row),
            ]
            for row in rows
        ),
    )


def _diversity(part: StudyPart, of: str) -> Iterator[str]:
    yield f"## pass@k{of}"
    yield ""
    ks = sorted({k for curve in part.pass_curves for k in curve.ks})
    yield from table(
        ["set", "arm", "point", *(f"pass@{k}" for k in ks)],
        (
            [
                curve.column,
                curve.arm,
                POINT_NAMES[curve.point],
                *(per_cent(dict(zip(curve.ks, curve.figures, strict=True)).get(k)) for k in ks),
            ]
            for curve in part.pass_curves
        ),
    )
    yield f"## Diversity{of}"
    yield ""
    yield from table(
        ["metric", "arm", "point", "mean", "unit"],
        ([row.metric, row.arm, POINT_NAMES[row.point], plain(row.figure), row.unit] for row in part.diversity),
    )


def _associations(part: StudyPart, of: str) -> Iterator[str]:
    if not part.associations:
        return
    yield f"## What goes with the gain{of}"
    yield ""
    yield "Over all runs; x is of the policy that RL began with. Intervals draw whole policies, not runs."
    yield ""
    yield from table(
        ["x", "y", "runs", "policies", "Pearson", "Spearman", "slope"],
        (
            [
                row.x,
                row.y,
                str(row.num_runs),
                str(row.num_clusters),
                bounds(row.pearson),
                bounds(row.spearman),
                bounds(row.slope),
            ]
            for row in part.associations
        ),
    )
