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
from api.cli.calling import console
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
TIMELINE = {
    "now": WHEN, "start": WHEN, "end": None, "taken_over": [],
    "waits": [{"start": WHEN, "end": WHEN}],
    "attempts": [{
        "number": 1, "status": "running", "start": WHEN, "end": None, "end_reason": None, "message": "",
        "spans": [{
            "stage": "sft", "start": WHEN, "end": None, "state": "running", "steps_done": 3, "steps_planned": 9,
        }],
    }],
    "incidents": [{
        "event_id": 1, "ts": "2026-01-01T00:01:00Z", "kind": "checkpoint", "weight": "milestone",
        "message": "[b]saved[/b]", "attempt_number": 1,
    }],
}  # fmt: skip
SPECIFICATION = {
    "experiment_id": "exp-1", "submitted": None, "chosen": {"name": "toy", "seed": 1},
    "resolved": {"name": "toy", "seed": 1, "tags": []}, "defaults": ["tags"],
    "against": {"experiment_id": "exp-0", "name": "old", "relation": "cloned_from"},
    "changes": [{"path": "seed", "before": None, "after": 1}],
}  # fmt: skip
LINEAGE = {
    "experiment_id": "exp-1", "cloned_from": {"experiment_id": "exp-0", "name": "[b]old"}, "copies": [], "study": None,
    "taken_from": [], "taken_by": [{"experiment_id": "exp-2", "name": "", "stage": "sft"}],
    "data": [{"stage": "sft", "what": "data_sha256", "sha256": "ab12"}], "code": {"torch": "2.9"},
}  # fmt: skip
SPEND = {
    "phases": [
        {"phase": "rl", "wall_s": 7200.0, "cpu_s": 3600.0, "gpu_s": 7200.0, "is_part": False},
        {"phase": "generating", "wall_s": 60.0, "cpu_s": 0.0, "gpu_s": 60.0, "is_part": True},
    ],
    "held_cpu_s": 3600.0, "held_gpu_s": 9000.0, "lost_cpu_s": 0.0, "lost_gpu_s": 1800.0,
}  # fmt: skip
OUTPUTS = {
    "location": "/outputs/exp-1",
    "items": [{
        "id": "rl.model", "kind": "model", "stage": "rl", "step": None, "is_whole": False, "modified_at": WHEN,
        "num_bytes": 2048, "files": [{"path": "config.json", "num_bytes": 2048}],
    }],
}  # fmt: skip
STANDING = {
    "project": "default", "user": None, "shares": 1.0, "share_part": 0.5, "usage": 3.0, "usage_part": 0.25,
    "num_running": 1, "num_queued": 2, "num_cpus": 2.0, "num_gpus": 0.0, "gpu_hours": 1.5, "max_running": 4,
    "max_queued": None, "max_cpus": None, "max_gpus": None, "max_gpu_hours": 10.0, "window_days": 7.0,
}  # fmt: skip
ROLE = {"role": "trainer", "num_actors": 1, "num_cpus": 2.0, "num_gpus": 1.0}
CLUSTER = {
    "cluster": {
        "observed_at": WHEN, "reachable": True, "num_cpus": 8.0, "num_gpus": 2.0, "num_cpus_taken": 2.0,
        "num_gpus_taken": 1.0, "message": "",
    },
    "ray_session": None, "ray_dashboard_url": None,
    "nodes": [{
        "id": "n1", "name": "10.0.0.1", "is_head": True, "is_alive": True, "gpu_type": "H100", "num_cpus": 8.0,
        "num_gpus": 2.0, "memory_bytes": None, "num_cpus_taken": 2.0, "num_gpus_taken": 1.0, "ray_cpus_held": None,
        "ray_gpus_held": None, "num_attempts": 1,
    }],
    "by_gpu_type": [{"gpu_type": "H100", "num_gpus": 2.0, "num_gpus_taken": 1.0}], "by_role": [ROLE],
    "actors": [{
        "experiment_id": "exp-1", "name": "toy", "project": "default", "user": "ada", "attempt_number": 1,
        "nodes": ["n1"], "roles": [ROLE], "heartbeat_at": WHEN,
        "progress": {"stage": "rl", "phase": "generating", "step": 3, "num_steps": 9, "since": WHEN},
    }],
    "processes": [{
        "role": "scheduler", "instance": "s1", "version": "1", "started_at": WHEN, "seen_at": WHEN, "is_alive": True,
        "leads": False,
    }],
    "lease": None,
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

    asked: list[str] = []
    """Paths with their queries, or with the body that was sent; the newest last."""

    def do_GET(self) -> None:
        self.asked.append(self.path.removeprefix("/api/v1"))
        parts = urlsplit(self.path)
        known: dict[str, Any] = {
            "/me": {"user": "ada", "kind": "person", "is_admin": False, "token": "a", "scope": "write", "projects": {}},
            "/experiments": {"items": [SUMMARY], "next_cursor": None},
            "/experiments/counts": {"by_status": {"running": 2, "failed": 1}, "total": 3},
            "/cluster": CLUSTER,
            "/queue/standings": {"items": [STANDING]},
            "/experiments/exp-1/timeline": TIMELINE,
            "/experiments/exp-1/specification": SPECIFICATION,
            "/experiments/exp-1/lineage": LINEAGE,
            "/experiments/exp-1/spend": SPEND,
            "/experiments/exp-1/checkpoints": OUTPUTS,
            "/experiments/exp-1/checkpoints/rl.model/archive": {"tar": 1},
            "/experiments/exp-1/checkpoints/rl.model/file": {"config": 1},
            "/experiments/exp-1/metrics/names": names(),
            "/experiments/exp-1/metrics": series(parse_qs(parts.query)) if "name" in parts.query else None,
            "/experiments/exp-1/events": {"items": [EVENT], "next_after": None},
        }
        found = known.get(parts.path.removeprefix("/api/v1"))
        self._send(found)

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(f"{self.path.removeprefix('/api/v1')} {json.dumps(order)}")
        done = [one for one in order["ids"] if one != "exp-9"]
        items = [{"id": one, "done": True, "status": "cancelled"} for one in done]
        if len(done) < len(order["ids"]):
            items.append({"id": "exp-9", "done": False, "code": "not_found", "detail": "there is no exp-9"})
        self._send({"items": items, "num_done": len(done)})

    def _send(self, found: Any) -> None:
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


def test_lists_are_narrowed_ordered_and_counted() -> None:
    run("ls", "--status", "failed", "--status", "queued", "--user", "ada", "--objective", "sed", "--text", "a b",
        "--order", "ended")  # fmt: skip
    asked = parse_qs(urlsplit(Answers.asked[-1]).query)
    assert asked.pop("status") == ["failed", "queued"] and asked.pop("limit") == ["20"]
    assert asked == {"user": ["ada"], "objective": ["sed"], "text": ["a b"], "order": ["ended"]}

    assert run("ls", "--counts", "--tag", "x").stdout.split() == ["2", "running", "1", "failed", "3", "in", "all"]
    assert Answers.asked[-1] == "/experiments/counts?tag=x"
    run("ls", "--counts", "--status", "failed", code=2)


def test_several_experiments_are_one_request_and_one_that_is_refused_is_told() -> None:
    assert "2 of 2 done" in run("hold", "exp-1", "exp-2", "exp-1", "--reason", "quiet night").stdout
    path, order = Answers.asked[-1].split(" ", 1)
    assert path == "/experiments/bulk"
    assert json.loads(order) == {
        "action": "hold", "ids": ["exp-1", "exp-2"], "priority": None, "reason": "quiet night",
    }  # fmt: skip

    refused = run("priority", "exp-1", "exp-9", "high", code=3)
    assert "exp-9: there is no exp-9 (not_found)" in refused.stderr and "1 of 2 done" in refused.stdout
    assert '"priority": "high"' in Answers.asked[-1]
    for action in ("cancel", "release", "retry"):
        assert json.loads(run(action, "exp-1", "exp-2", "--json").stdout)["num_done"] == 2
        assert f'"action": "{action}"' in Answers.asked[-1]

    run("priority", "exp-1", "exp-2", "highest", code=2)
    assert "at most 200" in " ".join(run("cancel", *(f"exp-{number}" for number in range(201)), code=2).stderr.split())


def test_the_course_of_an_experiment_and_where_it_comes_from() -> None:
    lines = [line[21:] for line in run("timeline", "exp-1").stdout.splitlines()]
    assert [line.strip() for line in lines] == [
        "waits 0 s",
        "attempt 1, running, 0 s so far",
        "sft running, 0 s so far, 3 of 9 steps",
        "[b]saved[/b] (attempt 1)",
    ]
    known = run("lineage", "exp-1").stdout
    assert "exp-0 [b]old" in known and "exp-2 (gone) (sft)" in known and "ab12" in known and "torch" in known
    assert json.loads(run("lineage", "exp-1", "--json").stdout)["code"] == {"torch": "2.9"}


def test_a_specification_is_ready_to_submit_or_set_against_another() -> None:
    shown = run("spec", "exp-1")
    assert shown.stdout == "name: toy\nseed: 1\n" and "1 setting differs from exp-0, its pattern" in shown.stderr
    assert run("spec", "exp-1", "--resolved").stdout.endswith("tags: []\n")
    assert run("spec", "exp-1", "--against", "exp-0").stdout.split()[-3:] == ["seed", "–", "1"]
    assert Answers.asked[-1].endswith("/specification?against=exp-0")
    run("spec", "exp-1", "--resolved", "--json", code=2)


def test_costs_are_hours_and_checkpoints_are_listed_and_downloaded(tmp_path: Path) -> None:
    rows = [line.split() for line in run("cost", "exp-1").stdout.splitlines()]
    assert rows[1] == ["rl", "2", "h", "1.000", "2.000"] and rows[-1][-2:] == ["0.000", "0.500"]

    listed = run("checkpoints", "exp-1").stdout
    assert "rl.model" in listed and "2.0 KiB" in listed and "not whole" in listed and "/outputs/exp-1" in listed
    target = tmp_path / "model.tar"
    run("checkpoints", "exp-1", "--download", "rl.model", "-o", str(target))
    assert json.loads(target.read_text()) == {"tar": 1}
    run("checkpoints", "exp-1", "--download", "rl.model", "--file", "config.json", "-o", str(target))
    assert json.loads(target.read_text()) == {"config": 1} and Answers.asked[-1].endswith("file?path=config.json")

    run("checkpoints", "exp-1", "--download", "none", "-o", str(tmp_path / "none.tar"), code=3)
    run("checkpoints", "exp-1", "--download", "rl.model", "-o", str(tmp_path / "none" / "x.tar"), code=1)
    run("checkpoints", "exp-1", "--download", "rl.model", code=2)
    assert [file.name for file in tmp_path.iterdir()] == ["model.tar"]


def test_the_cluster_and_who_is_meant_to_get_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 160)  # where COLUMNS was set at the import, it is heard no more
    shown = run("cluster").stdout
    assert "H100: 1 of 2 GPUs taken" in shown and "1 trainer (2/1)" in shown and "rl generating, step 3 of 9" in shown
    assert "Nobody schedules now." in shown
    row = run("standings").stdout.splitlines()[1]
    assert "50.0%" in row and "25.0%" in row and "1 of 4" in row and "1.5 of 10 in 7 d" in row


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
