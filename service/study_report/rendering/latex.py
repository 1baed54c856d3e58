"""A report's table of results and its comparisons as LaTeX, for `booktabs`."""

from collections.abc import Iterator

from service.contract.study_report import Cell, MainTable, Row, StudyPart, StudyReport
from service.study_report.rendering.text import one_line, points, seeds
from service.study_report.wording import POINT_NAMES, shown_p

_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "−": "$-$",
        "–": "--",
        "±": r"$\pm$",
    }
)


def report_latex(report: StudyReport) -> str:
    """Two tables for each part; needs `\\usepackage{booktabs}`."""
    lines = [
        f"% {' '.join(report.name.split())}: study {report.study_id}, {report.made_at:%Y-%m-%d}",
        "% needs booktabs",
    ]
    for place, part in enumerate(report.parts, 1):
        suffix = f"-{place}" if len(report.parts) > 1 else ""
        lines += [*_results(report, part.table, suffix), *_comparisons(report, part, suffix)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """As text, whatever is in it."""
    return one_line(text).translate(_SPECIAL)


def _results(report: StudyReport, table: MainTable, suffix: str) -> Iterator[str]:
    yield from _begin("l" * 2 + "c" * len(table.columns) + "r")
    heads = [escape(column.title) for column in table.columns]
    yield _line(["Stage", "Arm", *heads, "Seeds"])
    point = None
    for row in table.rows:
        if row.point != point:
            yield r"\midrule"
        yield _line(_row(row, is_first=row.point != point))
        point = row.point
    yield from _end(
        f"{escape(report.name)}. Per cent; mean {escape('±')} half the 95\\,\\% interval over seeds. "
        f"Bold: distinguishable from the second of its stage. {escape(report.state)}",
        f"tab:{report.study_id}{suffix}",
    )


def _row(row: Row, *, is_first: bool) -> list[str]:
    known = next((cell.figure for cell in row.cells if cell.figure is not None), None)
    arm = f"{row.arm} ({row.source})" if row.source else row.arm
    stage = escape(POINT_NAMES[row.point]) if is_first else ""
    return [stage, escape(arm), *map(_cell, row.cells), "--" if row.source else seeds(known)]


def _cell(cell: Cell) -> str:
    if cell.figure is None:
        return "--"
    mean, reach = f"{100 * cell.figure.mean:.1f}", cell.figure.half_width
    shown = rf"\textbf{{{mean}}}" if cell.is_best else mean
    return shown if reach is None else rf"{shown} $\pm$ {100 * reach:.1f}"


def _comparisons(report: StudyReport, part: StudyPart, suffix: str) -> Iterator[str]:
    rows = [row for row in part.comparisons if row.is_primary]
    if not rows:
        return
    yield from _begin("llcrr")
    yield _line(["Arm", "Baseline", "Difference (points)", "$p$", "$p$ (Holm)"])
    yield r"\midrule"
    for row in rows:
        p_values = [escape(shown_p(p)).replace("<", "$<$") for p in (row.p_value, row.p_adjusted)]
        difference = points(row.difference).replace("-", "$-$").replace("+", "$+$")
        yield _line([escape(row.arm), escape(row.baseline), difference, *p_values])
    yield from _end(
        f"{escape(report.name)}: {escape(report.primary)}, difference from the baseline with its "
        f"{100 * (1 - report.alpha):g}\\,\\% interval; $p$ from permutations.",
        f"tab:{report.study_id}-differences{suffix}",
    )


def _begin(columns: str) -> list[str]:
    return [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]


def _end(caption: str, label: str) -> list[str]:
    return [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", rf"\label{{{label}}}", r"\end{table}"]


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
