"""A comparison as CSV, one row a figure, and as Markdown for people."""

import csv
import io
from collections.abc import Iterator

from service.contract.comparison import Comparison
from service.contract.study_report import Figure
from service.study_report.rendering.markdown_table import escape, table
from service.study_report.rendering.text import NOTHING, plain

_COLUMNS = ("kind", "group", "stage", "metric", "unit", "step", "seconds", "tokens", "mean", "low", "high")
_BEHIND = ("num_units", "num_runs")


def comparison_csv(comparison: Comparison) -> str:
    """`kind` is `result` or `curve`; `low` and `high` are the 95 % interval over seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*_COLUMNS, *_BEHIND))
    writer.writerows(_results(comparison))
    writer.writerows(_points(comparison))
    return out.getvalue()


def comparison_markdown(comparison: Comparison) -> str:
    """Warnings, results and what the specifications differ in."""
    return "\n".join(_lines(comparison)).rstrip() + "\n"


def _results(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    for row in comparison.results:
        for group, one in zip(comparison.groups, row.figures, strict=True):
            if one is not None:
                place = ("result", group.label, row.stage, row.metric, row.unit, "", "", "")
                yield (*place, one.mean, one.low, one.high, one.num_units, one.num_runs)


def _points(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    for metric in comparison.curves:
        for curve in metric.curves:
            for place, step in enumerate(curve.steps):
                costs = [each[place] if each is not None else "" for each in (curve.seconds, curve.tokens)]
                values = (curve.mean[place], curve.low[place], curve.high[place], curve.num_units, curve.num_runs)
                yield ("curve", curve.group, "", metric.metric, metric.unit, step, *costs, *values)


def _lines(comparison: Comparison) -> Iterator[str]:
    labels = [one.label for one in comparison.groups]
    by = ", ".join(comparison.by) or "nothing: all are one group"
    yield "# Comparison"
    yield ""
    yield escape(
        f"{len(comparison.experiments)} experiments by {by}. Means ± half the 95 % interval over seeds; n seeds."
    )
    yield ""
    yield from (f"- {escape(text)}" for text in comparison.warnings)
    yield ""
    rows = ([row.stage, row.metric, row.unit, *map(shown, row.figures)] for row in comparison.results)
    yield from table(["Stage", "Metric", "Unit", *labels], rows)
    if comparison.differing:
        yield "## What the specifications differ in"
        yield ""
        yield from table(["Field", *labels], ([one.path, *one.values] for one in comparison.differing))
    yield "## Experiments"
    yield ""
    runs = comparison.experiments
    yield from table(
        ["Group", "Experiment", "Name", "Seed", "Status"],
        ([o.group, o.id, o.name, str(o.seed), o.status] for o in runs),
    )


def shown(figure: Figure | None) -> str:
    """`0.42 ± 0.05 (n 3)`."""
    return NOTHING if figure is None else f"{plain(figure)} (n {figure.num_units})"
