"""`sedray study report`, `counts` and `spec`, against a server that answers as the service does."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from api.cli.commands import app
from api.client import SedrayClient
from service.study_report.rendering.rows import report_csv, report_rows
from service.study_report.report import make_report
from tests.service.study_report.hand_made import NOW, random_study


class Answers(BaseHTTPRequestHandler):
    """Says which path it was asked for; under `/report` a report."""

    def do_GET(self) -> None:
        body = f"# {self.path}\n".encode()
        if self.path.endswith("/report"):
            body = make_report(random_study(num_seeds=2), NOW).model_dump_json().encode()
        if self.path.endswith("/study-csv/report.csv"):
            body = report_csv(make_report(random_study(num_seeds=2), NOW))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def run(url: str, folder: Path, *words: str) -> Result:
    (folder / "token").write_text("sr_1")
    return CliRunner().invoke(app, ["--url", url, "--token-file", str(folder / "token"), "study", *words])


def test_report_is_printed_as_markdown_or_in_the_form_that_is_asked_for(url: str, tmp_path: Path) -> None:
    assert run(url, tmp_path, "report", "study-1").stdout == "# /api/v1/studies/study-1/report.md\n"
    assert run(url, tmp_path, "report", "study-1", "--format", "tex").stdout == "# /api/v1/studies/study-1/report.tex\n"
    assert run(url, tmp_path, "report", "study-1", "-f", "json").stdout.startswith('{"study_id":"stu-1"')


def test_files_are_written_where_a_person_says(url: str, tmp_path: Path) -> None:
    for words, name, asked in (
        (("report", "study-1", "-f", "parquet"), "figures.parquet", "report.parquet"),
        (("counts", "study-1"), "counts.csv", "counts.csv"),
        (("spec", "study-1"), "study.yaml", "spec.yaml"),
    ):
        answer = run(url, tmp_path, *words, "--output", str(tmp_path / name))
        assert answer.exit_code == 0, answer.output
        assert (tmp_path / name).read_text() == f"# /api/v1/studies/study-1/{asked}\n"


def test_what_cannot_be_done_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    assert "give a file with --output" in run(nobody, tmp_path, "report", "study-1", "-f", "parquet").output
    refused = run(nobody, tmp_path, "counts", "study-1", "-o", str(tmp_path / "counts.txt"))
    assert refused.exit_code == 2 and ".csv or .parquet" in refused.output


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_of_the_report_has_a_typed_row_for_each_figure(url: str, library: Any) -> None:
    with SedrayClient(url, "sr_1") as client:
        frame = client.frames.report("study-csv", library=library)
    expected = list(report_rows(make_report(random_study(num_seeds=2), NOW)))
    assert list(frame["kind"]) == [row["kind"] for row in expected]
    assert frame["arm"][0] == expected[0]["arm"] and frame["mean"][0] == pytest.approx(expected[0]["mean"])
    assert frame["num_runs"][0] == expected[0]["num_runs"] and frame["is_marked"][0] == expected[0]["is_marked"]


def test_the_report_is_printed_as_json_and_yaml(url: str, tmp_path: Path) -> None:
    assert json.loads(run(url, tmp_path, "report", "study-1", "--json").stdout)["study_id"] == "stu-1"
    assert run(url, tmp_path, "report", "study-1", "--yaml").stdout.startswith("study_id: stu-1\n")
    assert run(url, tmp_path, "report", "study-1", "--json", "-f", "tex").exit_code == 2


def test_the_client_reads_the_report_as_a_model(url: str) -> None:
    with SedrayClient(url, "sr_1") as client:
        assert client.study_report("study-1").parts[0].arms == ["ce", "sed"]
