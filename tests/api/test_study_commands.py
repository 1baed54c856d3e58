"""Studies on the command line, against a transport that answers as the service does."""

import json
from io import StringIO
from typing import Any

import httpx
from rich.console import Console, RenderableType

from api.cli.study_tables import studies_table, study_plan_view, study_view
from api.cli.study_watch import watch_study
from api.client import SedrayClient
from api.study_schemas import StudyOut, StudyPlanReply, StudyRunOut
from service.contract.study_plan import StudyPlan
from tests.factories import NOW, study_body

PLAN = StudyPlan(
    num_planned=8, num_experiments=4, arms=["ce", "sed"], stages=[], max_gpu_hours=0.0, max_cpu_hours=32.0,
    gpu_hours=None, cpu_hours=None, duration_s=None, basis="", unknown=["the time of rl"], warnings=["mind it"],
)  # fmt: skip


def a_study(**changes: Any) -> dict[str, Any]:
    amendment = {"number": 1, "at": NOW.isoformat(), "by": "ada", "kind": "add_seeds", "change": {}, "reason": "wide"}
    return {
        "id": "study-1", "name": "ce-or-sed", "project": "default", "user": "ada", "question": "Does it help?",
        "state": "finished", "state_reason": "all_ended", "message": "all 4 experiments have ended",
        "created_at": NOW.isoformat(), "state_at": NOW.isoformat(), "num_runs": 4,
        "runs": {"succeeded": 3, "failed": 1}, "num_excluded": 1, "spec": study_body(), "submitted_spec": study_body(),
        "amendments": [amendment], "plan": PLAN.model_dump(mode="json"), "evidence": {}, "gpu_hours": 0.0,
        "cpu_hours": 1.5, "half_widths": {"sed": 0.0125}, **changes,
    }  # fmt: skip


def a_run(**changes: Any) -> StudyRunOut:
    facts = {
        "position": 0, "arm": "ce", "sft_seed": 1, "rl_seed": 7, "experiment_id": "exp-1", "amendment": None,
        "status": "succeeded", "end_reason": None, "message": "", "waiting_reason": None, "started_at": NOW,
        "ended_at": NOW, "excluded_at": NOW, "excluded_by": "ada", "excluded_reason": "wrong node",
    }  # fmt: skip
    return StudyRunOut.model_validate({**facts, **changes})


def shown(renderable: RenderableType) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_study_is_shown_with_its_amendments_and_exclusions() -> None:
    text = shown(study_view(StudyOut.model_validate_json(json.dumps(a_study())), [a_run()]))
    assert "pass@1, after rl, against ce" in text
    assert "± 0.0125" in text
    assert "amendment 1 by ada, 2026-03-01: add seeds: wide" in text
    assert "exp-1 (ce, seed 1.7) excluded by ada: wrong node" in text


def test_a_plan_says_what_is_not_known() -> None:
    reply = json.dumps({"spec": study_body(), "plan": PLAN.model_dump(mode="json")})
    text = shown(study_plan_view(StudyPlanReply.model_validate_json(reply)))
    assert "4 of the 8 that the study stands for" in text
    assert "not known: the time of rl" in text and "warning: mind it" in text
    assert "about" not in text, "no number where nothing is known"


def test_watching_ends_when_nothing_waits_or_runs_any_more() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json=a_study())

    client = SedrayClient("http://service", "sr_token", http=httpx.Client(transport=httpx.MockTransport(answer)))
    console = Console(file=StringIO(), width=160)
    assert watch_study(client, "study-1", console).is_over
    assert asked == ["/api/v1/studies/study-1"]
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == "finished  4/4 ended  (3 succeeded, 1 failed)\n"


def test_a_stopped_study_is_not_over_while_runs_go_on() -> None:
    study = StudyOut.model_validate_json(json.dumps(a_study(state="stopped", runs={"succeeded": 3, "running": 1})))
    assert not study.is_over
    assert "3/4" in shown(studies_table([study]))
