"""What the page of an experiment asks for: axes, course, specification, lineage, checkpoints, cost."""

import io
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from service import attempts, metric_store, origins, reporting
from service.contract.messages import MetricColumns, Progress
from service.contract.status import EndReason
from service.settings import ApiSettings
from service.storage.database import Sessions
from service.storage.scheduling_tables import StageKey
from service.storage.tables import Attempt
from tests.factories import (
    NOW,
    experiment_of,
    make_attempt,
    make_experiment,
    make_report,
    make_run_event,
    make_stage_result,
    make_study,
    spec_body,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(settings: ApiSettings, tmp_path: Path) -> ApiSettings:
    """Outputs in a folder of the test."""
    return settings.model_copy(update={"output_root": str(tmp_path / "outputs")})


def columns(name: str, steps: range, value: float, *, begin: int = 0) -> MetricColumns:
    """A step a second, from `begin` seconds after the attempt's beginning on."""
    times = [NOW + timedelta(seconds=begin + place) for place, _ in enumerate(steps, 1)]
    return MetricColumns(name=name, steps=list(steps), ts=times, values=[value] * len(steps))


async def get(client: httpx.AsyncClient, experiment_id: str, path: str) -> Any:
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def resumed_attempts(sessions: Sessions) -> str:
    """Steps 1 to 4 took four seconds; the second attempt took up at step 3, a minute later."""
    async with sessions.begin() as session:
        first = await make_attempt(session)
        await metric_store.append_columns(session, first, [columns("sft/num_tokens", range(1, 5), 10)])
        await attempts.end_attempt(session, first, EndReason.ACTOR_DIED, "lost", {})
        await attempts.release(session, first, NOW + timedelta(seconds=30))
        second = await make_attempt(session, await experiment_of(session, first))
        await metric_store.append_columns(session, second, [columns("sft/num_tokens", range(3, 7), 10, begin=60)])
        moved = {"created_at": NOW + timedelta(seconds=60)}
        await session.execute(update(Attempt).where(Attempt.id == second.id).values(moved))
        await session.execute(update(Attempt).where(Attempt.id == first.id).values(created_at=NOW))
    return first.experiment_id


async def test_an_axis_tells_time_tokens_and_hours_of_the_attempt_that_stands(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    page = await get(client, await resumed_attempts(sessions), "metrics/axes")

    axes = {axis["stage"]: axis["knots"] for axis in page["axes"]}
    assert [(knot["step"], knot["elapsed_s"], knot["tokens"]) for knot in axes["sft"]] == [
        (1, 1, 10),
        (2, 2, 20),
        (3, 61, 30),
        (4, 62, 40),
        (5, 63, 50),
        (6, 64, 60),
    ]
    # One CPU over 30 seconds of the first attempt and 4 of the second.
    assert axes["sft"][-1]["cpu_hours"] == pytest.approx(34 / 3600)
    assert axes["evaluate"] == axes["sft"]


async def test_an_axis_of_few_knots_keeps_both_ends(client: httpx.AsyncClient, sessions: Sessions) -> None:
    page = await get(client, await resumed_attempts(sessions), "metrics/axes?max_knots=2")
    assert [knot["step"] for knot in page["axes"][0]["knots"]] == [1, 6]


async def test_the_course_tells_what_each_attempt_was_at_and_what_happened(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        first = await make_attempt(session)
        at = Progress(stage="sft", phase="training", step=7, num_steps=10, since=NOW)
        stalled = make_run_event("stalled", message="stands still")
        await reporting.take_report(session, first, make_report(progress=at, events=[stalled]))
        await attempts.end_attempt(session, first, EndReason.ACTOR_DIED, "the trainer was lost", {})

    course = await get(client, first.experiment_id, "timeline")

    [attempt] = course["attempts"]
    assert [(span["stage"], span["state"], span["steps_done"]) for span in attempt["spans"]] == [
        (None, "finished", None),
        ("sft", "interrupted", 7),
    ]
    assert {(one["kind"], one["weight"]) for one in course["incidents"]} >= {
        ("stalled", "problem"),
        ("attempt_failed", "problem"),
    }
    assert course["waits"][-1]["end"] is None  # it waits for its second attempt


async def test_a_copy_is_compared_with_its_pattern_and_each_knows_the_other(client: httpx.AsyncClient) -> None:
    pattern = (await client.post("/api/v1/experiments", json=spec_body())).json()["id"]
    changed = {**spec_body()["sft"], "num_epochs": 3}
    answer = await client.post(f"/api/v1/experiments?cloned_from={pattern}", json=spec_body(sft=changed))
    copy = answer.json()["id"]

    found = await get(client, copy, "specification")

    assert (found["against"]["experiment_id"], found["against"]["relation"]) == (pattern, "cloned_from")
    assert found["changes"] == [{"path": "sft.num_epochs", "before": 1, "after": 3}]
    assert found["submitted"] == spec_body(sft=changed)
    assert found["chosen"]["sft"]["num_epochs"] == 3
    assert "sft.packing" in found["defaults"] and "sft.num_epochs" not in found["defaults"]
    assert [one["experiment_id"] for one in (await get(client, pattern, "lineage"))["copies"]] == [copy]
    assert (await get(client, copy, "lineage"))["cloned_from"]["experiment_id"] == pattern
    assert (await client.post("/api/v1/experiments?cloned_from=exp-none", json=spec_body())).status_code == 404


async def test_what_was_chosen_is_a_specification_that_means_the_same(client: httpx.AsyncClient) -> None:
    rl = {
        "data": {"path": "/d"},
        "reward": {"type": "countdown"},
        "optimizer": {"learning_rate": 1e-4},
        "num_steps": 2,
        "num_prompts_per_step": 2,
        "num_generations": 2,
        "max_completion_length": 8,
    }
    body = spec_body(rl=rl, sft={**spec_body()["sft"], "objective": {"type": "sed"}})
    experiment = (await client.post("/api/v1/experiments", json=body)).json()["id"]
    found = await get(client, experiment, "specification")
    again = (await client.post("/api/v1/experiments", json=found["chosen"])).json()["id"]
    assert (await get(client, experiment, f"specification?against={again}"))["changes"] == []


async def test_a_run_of_a_study_is_compared_with_its_baseline(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        study = await make_study(session)
    runs = (await client.get(f"/api/v1/studies/{study.id}/runs")).json()["items"]
    run = {(one["arm"], one["sft_seed"]): one["experiment_id"] for one in runs}

    found = await get(client, run["sed", 2], "specification")
    assert (found["against"]["experiment_id"], found["against"]["relation"]) == (run["ce", 2], "baseline")
    assert {change["path"] for change in found["changes"]} > {"sft.objective.type"}
    assert (await get(client, run["ce", 2], "specification"))["against"] is None
    assert (await get(client, run["sed", 2], "lineage"))["study"]["baseline_id"] == run["ce", 2]


async def test_who_took_over_a_stage_is_found_by_the_equal_key(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        source, taker = await make_experiment(session), await make_experiment(session)
        for one in (source, taker):
            session.add(_key(one.id, one.project_id))
        attempt = await make_attempt(session, taker)
        detail = {"reused_from": {"experiment_id": source.id}}
        await attempts.record_stage_result(session, attempt, make_stage_result(detail=detail))
        found = await origins.takers_of(session, source.id)
    assert [(one.experiment_id, one.stage) for one in found] == [(taker.id, "sft")]


def _key(experiment_id: str, project_id: str) -> StageKey:
    return StageKey(experiment_id=experiment_id, stage="sft", project_id=project_id, settings_key="0" * 64)


@pytest.fixture
async def with_outputs(sessions: Sessions, settings: ApiSettings) -> tuple[str, Path]:
    """A model, a checkpoint that is not whole, and a link that leads out."""
    async with sessions.begin() as session:
        experiment_id = (await make_attempt(session)).experiment_id
    folder = Path(settings.output_dir(experiment_id))
    (folder / "models" / "sft" / "adapter").mkdir(parents=True)
    (folder / "models" / "sft" / "config.json").write_text("{}")
    (folder / "models" / "sft" / "adapter" / "weights.bin").write_bytes(b"\1" * 700)
    (folder / "checkpoints" / "sft" / "step-00000010").mkdir(parents=True)
    (folder / "checkpoints" / "sft" / "step-00000010" / "tensors-00000.bin").write_bytes(b"\0")
    secret = folder.parent / "secret"
    secret.write_text("secret")
    (folder / "models" / "sft" / "link").symlink_to(secret)
    return experiment_id, folder


async def test_checkpoints_and_models_are_listed_and_come_as_a_tar(
    client: httpx.AsyncClient, with_outputs: tuple[str, Path]
) -> None:
    experiment_id, _ = with_outputs
    page = await get(client, experiment_id, "checkpoints")
    assert [(one["id"], one["is_whole"], one["num_bytes"]) for one in page["items"]] == [
        ("sft.step-00000010", False, 1),
        ("sft.model", True, 702),
    ]
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/checkpoints/sft.model/archive")
    assert len(answer.content) == int(answer.headers["content-length"])
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        sizes = {entry.name: entry.size for entry in archive}
    assert sizes == {"sft.model/adapter/weights.bin": 700, "sft.model/config.json": 2}


@pytest.mark.parametrize("path", ["link", "../../../secret", "/etc/passwd", "adapter", ""])
async def test_nothing_outside_an_output_is_sent(
    client: httpx.AsyncClient, with_outputs: tuple[str, Path], path: str
) -> None:
    url = f"/api/v1/experiments/{with_outputs[0]}/checkpoints/sft.model/file"
    assert (await client.get(url, params={"path": path})).status_code == 404
    assert (await client.get(url, params={"path": "config.json"})).text == "{}"


async def test_a_storage_that_is_elsewhere_is_named(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        experiment_id = (await make_attempt(session)).experiment_id
    answer = await client.get(f"/api/v1/experiments/{experiment_id}/checkpoints")
    assert answer.status_code == 503
    assert "not on the machine of the API" in answer.json()["detail"]


async def test_the_cost_counts_own_stages_and_what_was_lost(client: httpx.AsyncClient, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.record_stage_result(session, attempt, make_stage_result(duration_s=20.0))
        await attempts.end_attempt(session, attempt, EndReason.ACTOR_DIED, "lost", {})
        await attempts.release(session, attempt, NOW + timedelta(seconds=50))
    spend = await get(client, attempt.experiment_id, "spend")
    assert [(phase["phase"], phase["cpu_s"]) for phase in spend["phases"]] == [("sft", 20.0)]
    assert (spend["held_cpu_s"], spend["lost_cpu_s"]) == (50.0, 30.0)
