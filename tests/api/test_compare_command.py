"""`sedray compare`, against a server that answers as the service does."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner, Result

from api.cli.commands import app
from service.comparison import make_comparison
from tests.service.test_comparison import run, series


class Answers(BaseHTTPRequestHandler):
    """A comparison; as CSV the path that was asked for."""

    def do_GET(self) -> None:
        runs = [
            run("exp-a", seed=1, pass_1=0.25, series={"sft/nll": series([2.0, 1.0])}),
            run("exp-b", seed=1, objective="sed", pass_1=0.5),
        ]
        body = make_comparison(runs, None, ["sft/nll"], ["sft/nll"]).model_dump_json().encode()
        if ".csv" in self.path:
            body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def ask(url: str, folder: Path, *words: str) -> Result:
    (folder / "token").write_text("sr_1")
    return CliRunner().invoke(app, ["--url", url, "--token-file", str(folder / "token"), "compare", *words])


def test_groups_stand_side_by_side(url: str, tmp_path: Path) -> None:
    shown = ask(url, tmp_path, "exp-a", "exp-b").stdout
    assert "by sft.objective.type" in shown and "eval/test/pass@1" in shown and "0.25 n1" in shown
    assert "sft/nll" in shown and "! One seed only" in shown
    found = json.loads(ask(url, tmp_path, "exp-a", "--json").stdout)
    assert [one["label"] for one in found["groups"]] == ["ce", "sed"]
    asked = ask(url, tmp_path, "exp-a", "--by", "none", "--metric", "reward/mean", "-f", "csv").stdout
    assert asked == "/api/v1/compare.csv?ids=exp-a&by=&metric=reward%2Fmean"


def test_something_must_be_chosen(tmp_path: Path) -> None:
    refused = ask("http://127.0.0.1:9", tmp_path)
    assert refused.exit_code == 2 and "--study" in refused.output
