"""Reports as people take them along: by content, not by layout."""

import csv
import io

import pyarrow.parquet as pq
import pytest

from service.contract.study_report import StudyReport
from service.study_report.rendering import (
    counts_csv,
    counts_parquet,
    report_csv,
    report_latex,
    report_markdown,
    report_parquet,
)
from service.study_report.report import make_report
from tests.service.study_report.hand_made import NOW, random_study, run, study, study_spec


@pytest.fixture(scope="module")
def report() -> StudyReport:
    return make_report(random_study(), NOW)


def test_markdown_has_the_answer_the_table_and_where_it_comes_from(report: StudyReport) -> None:
    text = report_markdown(report)
    assert text.startswith("# toy study\n\nDoes it help?\n\n16 of 16 runs have succeeded.")
    assert f"- {report.answers[0]}" in text
    figure = report.parts[0].table.rows[-1].cells[0].figure
    assert figure is not None and figure.half_width is not None
    assert f"| after RL | sed | **{100 * figure.mean:.1f} ± {100 * figure.half_width:.1f}** | 8 |" in text
    assert "| after RL (primary) | test pass@1 | sed − ce |" in text
    for heading in ("## pass@k", "## Diversity", "## What goes with the gain", "## Cost", "## Provenance"):
        assert f"\n{heading}\n" in text
    assert "sedray study submit study.yaml --watch" in text


def test_latex_is_a_booktabs_table_with_a_rule_before_each_stage(report: StudyReport) -> None:
    text = report_latex(report)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2 and text.count(r"\midrule") == 4
    assert r"Stage & Arm & test pass@1 & Seeds \\" in text
    assert r"after RL & ce & " in text and r" & sed & \textbf{" in text
    assert text.count("{") == text.count("}")


def test_names_become_no_markup(report: StudyReport) -> None:
    spec = study_spec(name="50% & <b>_x_</b>\n# no heading", question="a | b $x$ \\input{y}\x1b[31m")
    hostile = make_report(study([run("ce", 1, {"after_rl": [1]})], spec), NOW)
    latex, markdown = report_latex(hostile), report_markdown(hostile)
    assert r"50\% \& <b>\_x\_</b> \# no heading" in latex
    assert "\n# no heading" not in markdown and "<b>" not in markdown and "\x1b" not in markdown + latex


def test_rows_are_the_same_in_csv_and_parquet(report: StudyReport) -> None:
    rows = list(csv.DictReader(io.StringIO(report_csv(report).decode())))
    table = pq.read_table(io.BytesIO(report_parquet(report)))
    assert table.num_rows == len(rows) and table.schema.names == list(rows[0])
    kinds = set(table.column("kind").to_pylist())
    assert kinds == {"result", "comparison", "pass_curve", "diversity", "association", "step_curve", "cost"}
    means = [row["mean"] and float(row["mean"]) for row in rows]
    assert means == table.column("mean").to_pylist()
    marked = [row for row in rows if row["kind"] == "comparison" and row["is_primary"] == "True"]
    assert [row["is_marked"] for row in marked] == ["True"]


def test_counts_are_one_row_for_each_run_point_and_prompt() -> None:
    facts = random_study(num_seeds=2)
    table = pq.read_table(io.BytesIO(counts_parquet(facts.id, facts.runs)))
    text = b"".join(counts_csv(facts.id, facts.runs)).decode()
    assert table.num_rows == 2 * 2 * 3 * 20 == len(text.splitlines()) - 1
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["arm"], first["sft_seed"], first["point"], first["set"], first["uid"]) == ("ce", 1, "base", "test", 0)
    assert first["num_right"] == facts.runs[0].points["base"]["test"].columns["num_correct"][0]
