"""Studies over HTTP: the whole life, what is refused, the pages, and the client."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from api.cli.spec_files import load_study
from service.scheduler.lease import Lease, acquire_lease
from service.scheduler.study_pass import watch_studies
from service.storage.database import Sessions
from tests.factories import study_body
from tests.service.scheduler.queue_world import QueueWorld, cpus
from tests.service.studies.counted_runs import succeed

pytestmark = pytest.mark.anyio
STUDIES = "/api/v1/studies"


async def submit(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post(STUDIES, json=study_body(**changes))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def order(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    answer = await client.post(f"{STUDIES}/{path}", json=body)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def a_lease(sessions: Sessions) -> Lease:
    async with sessions.begin() as session:
        lease = await acquire_lease(session, "test", ttl_s=600)
    assert lease is not None
    return lease


async def test_the_whole_life_of_a_study(client: httpx.AsyncClient, sessions: Sessions) -> None:
    study = await submit(client, max_running=2)
    where = study["id"]
    assert (study["state"], study["runs"], study["num_runs"]) == ("running", {"queued": 4}, 4)
    assert {share["stage"]: share["num_distinct"] for share in study["plan"]["stages"]}["sft"] == 4
    assert (await order(client, f"{where}/pause", reason="lunch"))["message"] == "paused by ada: lunch"
    assert (await order(client, f"{where}/resume"))["state"] == "running"
    amended = await order(client, f"{where}/amendments", reason="too few seeds", add_sft_seeds=[3])
    assert (amended["num_runs"], amended["spec"]["sft_seeds"]) == (6, [1, 2, 3])
    assert amended["submitted_spec"]["sft_seeds"] == [1, 2]
    (amendment,) = amended["amendments"]
    assert (amendment["kind"], amendment["by"], amendment["reason"]) == ("add_seeds", "ada", "too few seeds")

    runs = (await client.get(f"{STUDIES}/{where}/runs")).json()["items"]
    async with sessions.begin() as session:
        for run in runs:
            await succeed(session, run["experiment_id"])
    assert await watch_studies(sessions, await a_lease(sessions)) == 1
    await order(client, f"{where}/runs/{runs[0]['experiment_id']}/exclude", reason="wrong node")
    ended = (await client.get(f"{STUDIES}/{where}")).json()
    assert (ended["state"], ended["state_reason"], ended["runs"]) == ("finished", "all_ended", {"succeeded": 6})
    assert ended["num_excluded"] == 1
    back = await order(client, f"{where}/runs/{runs[0]['experiment_id']}/include")
    assert back["items"][0]["excluded_reason"] is None

    (listed,) = (await client.get(STUDIES, params={"state": "finished"})).json()["items"]
    assert listed["id"] == where
    entries = (await client.get("/api/v1/projects/default/audit", params={"action": "study"})).json()["items"]
    verbs = [entry["action"].removeprefix("study.") for entry in entries]
    assert verbs == ["include_run", "exclude_run", "finish", "amend", "resume", "pause", "submit"]


async def test_a_dry_run_stores_nothing(client: httpx.AsyncClient) -> None:
    answer = await client.post(STUDIES, json=study_body(rl_seeds=[10, 11]), params={"dry_run": "true"})
    assert answer.status_code == 200
    plan = answer.json()["plan"]
    assert (plan["num_planned"], plan["num_experiments"], plan["arms"]) == (8, 8, ["ce", "sed"])
    sft = plan["stages"][0]
    assert sft == {"stage": "sft", "num_runs": 8, "num_distinct": 4}
    assert plan["cpu_hours"] is None and plan["unknown"]
    assert (await client.get(STUDIES)).json()["items"] == []
    assert (await client.get("/api/v1/experiments")).json()["items"] == []


async def test_the_same_key_answers_with_the_same_study(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await client.post(STUDIES, json=study_body(), headers=headers)
    again = await client.post(STUDIES, json=study_body(), headers=headers)
    other = await client.post(STUDIES, json=study_body(name="other"), headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert again.json()["id"] == first.json()["id"] and again.headers["Idempotency-Replayed"] == "true"


async def test_a_refusal_names_the_arm_and_the_nearest_key(client: httpx.AsyncClient) -> None:
    arms = [{"name": "ce"}, {"name": "sed", "overrides": {"sft.num_epoch": 2}}]
    answer = await client.post(STUDIES, json=study_body(arms=arms))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_spec")
    assert problem["detail"] == (
        "arms.sed.overrides.sft.num_epoch: unknown key 'num_epoch' (did you mean 'num_epochs'?)"
    )
    mistyped = (await client.post(STUDIES, json={**study_body(), "baselin": "ce"})).json()
    assert mistyped["errors"][0]["hint"] == "did you mean 'baseline'?"


async def test_what_cannot_run_is_said_once_for_the_base(client: httpx.AsyncClient, sessions: Sessions) -> None:
    await QueueWorld(sessions, await a_lease(sessions)).see(cpus("n1", 1))
    answer = await client.post(STUDIES, json=study_body())
    assert answer.json()["errors"] == [{"field": "base.resources", "problem": "needs 2 CPUs, the cluster has 1"}]
    assert (await client.get("/api/v1/experiments")).json()["items"] == []


async def test_an_amendment_of_what_is_locked_is_refused_with_the_reason(client: httpx.AsyncClient) -> None:
    study = await submit(client)
    answer = await client.post(f"{STUDIES}/{study['id']}/amendments", json={"reason": "x", "baseline": "sed"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "(body): baseline is locked: what decides was stated before the first run, and a study that changes it "
        "afterwards is another study. Submit another study instead: stages that are equal are not run again"
    )
    assert "hint" not in answer.json()["errors"][0]
    assert (await client.get(f"{STUDIES}/{study['id']}")).json()["amendments"] == []


async def test_cancelling_ends_everything_that_waits(client: httpx.AsyncClient) -> None:
    study = await submit(client)
    cancelled = await order(client, f"{study['id']}/cancel", reason="wrong data")
    assert (cancelled["state"], cancelled["runs"]) == ("cancelled", {"cancelled": 4})
    assert (await client.post(f"{STUDIES}/{study['id']}/cancel", json={})).status_code == 409


async def test_the_pages_show_studies(client: httpx.AsyncClient) -> None:
    study = await submit(client, question="<script>alert(1)</script> Does it help?")
    await order(client, f"{study['id']}/amendments", reason="more", add_sft_seeds=[3])
    listed = await client.get("/studies")
    assert f'href="/studies/{study["id"]}"' in listed.text
    page = await client.get(f"/studies/{study['id']}")
    assert page.status_code == 200
    assert "<script>alert" not in page.text + listed.text
    assert 'data-action="pause"' in page.text and "baseline" in page.text and "add sft seeds" in page.text
    assert (await client.get("/studies/study-none")).status_code == 404


def test_paths_of_a_study_are_seen_from_its_file(tmp_path: Path) -> None:
    base = {"model": {"path": "models/toy"}, "sft": {"data": {"path": "/data/sft.jsonl"}}}
    arms = [
        {"name": "ce"},
        {"name": "narrow", "overrides": {"sft.data.path": "narrow.jsonl", "rl": None}},
        {"name": "both", "overrides": {"sft": {"data": {"path": "both.jsonl"}}}},
        {"name": "hub", "overrides": {"sft.data": {"type": "huggingface", "path": "openai/gsm8k"}}},
    ]
    body = {"base": base, "arms": arms, "factors": {"model.path": ["models/a", "models/b"]}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(body))
    study = load_study(file)
    assert study["base"]["model"]["path"] == str(tmp_path / "models/toy")
    assert study["arms"][1]["overrides"] == {"sft.data.path": str(tmp_path / "narrow.jsonl"), "rl": None}
    assert study["arms"][2]["overrides"]["sft"]["data"]["path"] == str(tmp_path / "both.jsonl")
    assert study["arms"][3]["overrides"]["sft.data"]["path"] == "openai/gsm8k"
    assert study["factors"]["model.path"] == [str(tmp_path / "models/a"), str(tmp_path / "models/b")]
