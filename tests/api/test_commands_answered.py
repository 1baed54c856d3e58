"""Commands against a server that answers as the service does: what they ask for, show, complete and end with."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
from typer.testing import CliRunner, Result

import api.cli  # noqa: F401  # all commands
from api.cli import completion
from api.cli.commands import app

WHEN = "2026-01-01T00:00:00Z"
INFO = {"unit": "nat", "better": "down", "stage": "sft", "meaning": "loss of a token"}
EVENT = {"id": 1, "ts": WHEN, "kind": "status", "message": "[b]runs[/b]", "attempt_id": None, "detail": {}}
SUMMARY = {
    "id": "exp-1", "name": "toy", "project": "default", "user": "ada", "tags": [], "status": "running",
    "end_reason": None, "message": "", "waiting_reason": None, "queue_position": None, "priority": "normal",
    "num_cpus": 2.0, "num_gpus": 0.0, "submitted_at": WHEN, "started_at": WHEN, "ended_at": None,
    "cancel_requested_at": None,
}  # fmt: skip
STUDY = {"title": "Not found", "detail": "there is no study study-1", "code": "not_found", "status": 404}


def names() -> dict[str, Any]:
    facts = {**INFO, "num_points": 3, "last_step": 3, "last_value": 1.0, "last_ts": WHEN}
    return {"items": [{"name": name, **facts} for name in ("sft/loss", "sft/nll", "reward/mean")]}


def series(query: dict[str, list[str]]) -> dict[str, Any]:
    points = [{"step": step, "ts": WHEN, "value": value} for step, value in ((1, 3.0), (2, "NaN"), (3, 1.0))]
    facts = {**INFO, "num_points": 3, "kind": "points", "points": points}
    return {"series": [{"name": name, **facts} for name in query["name"]]}


class Answers(BaseHTTPRequestHandler):
    """Knows one experiment, and no study."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        known: dict[str, Any] = {
            "/me": {"user": "ada", "kind": "person", "is_admin": False, "token": "a", "scope": "write", "projects": {}},
            "/experiments": {"items": [SUMMARY], "next_cursor": None},
            "/experiments/exp-1/metrics/names": names(),
            "/experiments/exp-1/metrics": series(parse_qs(parts.query)) if "name" in parts.query else None,
            "/experiments/exp-1/events": {"items": [EVENT], "next_after": None},
        }
        found = known.get(parts.path.removeprefix("/api/v1"))
        body = json.dumps(found or STUDY).encode()
        self.send_response(200 if found else 404)
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


@pytest.fixture(autouse=True)
def connected(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEDRAY_URL", url)
    monkeypatch.setenv("SEDRAY_TOKEN", "sr_1")


def run(*words: str, code: int = 0) -> Result:
    answer = CliRunner().invoke(app, list(words))
    assert answer.exit_code == code, answer.output
    return answer


def test_metrics_are_listed_shown_drawn_and_written() -> None:
    assert "loss of a token" in run("metrics", "exp-1").stdout
    assert run("metrics", "exp-1", "sft/loss").stdout.split() == ["STEP", "sft/loss", "1", "3", "2", "nan", "3", "1"]
    drawn = run("metrics", "exp-1", "sft/*", "--plot").stdout
    assert "sft/loss [nat]" in drawn and "sft/nll [nat]" in drawn and "reward" not in drawn
    lines = run("metrics", "exp-1", "sft/loss", "--csv").stdout.splitlines()
    assert lines[:2] == ["name,step,ts,value", "sft/loss,1,2026-01-01T00:00:00+00:00,3.0"] and len(lines) == 4
    refused = run("metrics", "exp-1", "sft/los", code=2)
    assert "did you mean sft/loss" in refused.stderr


def test_events_are_lines_for_people_and_for_programs() -> None:
    assert run("events", "exp-1").stdout.rstrip().endswith("status      [b]runs[/b]")
    assert json.loads(run("events", "exp-1", "--json").stdout)["id"] == 1
    assert run("events", "exp-1", "--yaml").stdout.startswith("---\nid: 1\n")


def test_what_the_service_refuses_and_a_service_that_is_not_there_end_differently(tmp_path: Path) -> None:
    assert "there is no study" in run("study", "show", "study-1", code=3).stderr
    assert "no service" in run("--data", str(tmp_path), "ls", code=4).stderr


def test_the_page_is_opened_or_its_address_printed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert run("open").stdout.strip() == run("open", "--print").stdout.strip() == url
    run("open", "study-1", "--print", code=3)
    run("open", "exp-none", code=3)


def test_the_shell_completes_ids_and_names_and_nothing_where_no_service_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = typer.main.get_command(app)
    context = typer.Context(command)
    inner = typer.Context(command, parent=context)
    inner.params = {"experiment_id": "exp-1"}

    assert completion.experiment_ids(context, "") == [("exp-1", "toy, running")]
    assert completion.metric_names(inner, "sft/n") == [("sft/nll", "nat")]
    monkeypatch.setenv("SEDRAY_URL", "http://127.0.0.1:9")
    assert completion.experiment_ids(context, "") == []


def test_bash_gets_its_completions_from_the_same_place(url: str) -> None:
    environment = {"_SEDRAY_COMPLETE": "complete_bash", "COMP_WORDS": "sedray show exp", "COMP_CWORD": "2"}
    answer = CliRunner().invoke(app, [], env=environment, prog_name="sedray")
    assert answer.stdout.split() == ["exp-1"]
