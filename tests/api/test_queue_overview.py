"""The queue as people see it: progress of those who run, reasons and starts of those who wait, standings, nodes."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from service import auth
from service.contract.access import ProjectRole
from service.contract.messages import Progress
from service.queue import limits, snapshot
from service.storage.database import Sessions
from service.storage.scheduling_tables import AttemptHolding, QueueEntry
from service.storage.tables import ClusterState
from service.tenancy import projects
from tests.factories import experiment_of, find_project, make_attempt, make_experiment, make_user

pytestmark = pytest.mark.anyio
BUNDLE = {"role": "trainer", "node": "n1", "num_cpus": 2.0, "num_gpus": 1.0}


async def fill(sessions: Sessions) -> tuple[str, str]:
    """A running and a waiting experiment of `ada`, on a node with two GPUs; their ids."""
    async with sessions.begin() as session:
        user = await make_user(session)
        attempt = await make_attempt(session, name="runs")
        experiment = await experiment_of(session, attempt)
        now = datetime.now(UTC)
        attempt.progress = Progress(stage="sft", phase="training", step=3, num_steps=9, since=now).model_dump(
            mode="json"
        )
        attempt.created_at = now - timedelta(hours=2)
        session.add(
            AttemptHolding(
                attempt_id=attempt.id,
                project_id=experiment.project_id,
                user_id=user.id,
                bundles=[
                    BUNDLE,
                    BUNDLE | {"state": "gone"},
                    BUNDLE | {"node": "lost", "role": "rollout", "num_gpus": 0.0},
                ],
                rate=1.0,
                penalty=0.0,
                charged_until=now - timedelta(hours=1),
            )
        )
        attempt.num_gpus = 1.0
        waits = await make_experiment(session, name="waits")
        entry = await session.get_one(QueueEntry, waits.id)
        entry.wait_code, waits.waiting_reason = "quota", "as many as may"
        await limits.set_quota(
            session, await find_project(session), None, {"max_gpu_hours": 9.0, "shares": 3.0}, user=user
        )
        usage = [["default", "ada", 30.0], ["other", "bo", 10.0]]
        await snapshot.write_snapshot(
            session, now=now, experiment_ids=[waits.id], facts={"usage": usage}, starts=[now.timestamp() + 600]
        )
        node = {"id": "n1", "num_cpus": 8.0, "num_gpus": 2.0, "gpu_type": "H100", "name": "10.0.0.1", "is_head": True}
        seen = {"observed_at": now, "reachable": True, "num_cpus": 8.0, "num_gpus": 2.0}
        session.add(ClusterState(id=1, **seen, nodes=[node | {"ray_cpus_held": 4.0, "ray_gpus_held": 1.0}]))
        return experiment.id, waits.id


async def test_who_runs_tells_its_progress_and_who_waits_its_start(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    await fill(sessions)

    queue = (await client.get("/api/v1/queue")).json()

    [running], [waiting] = queue["running"], queue["queued"]
    assert (running["attempt_number"], running["progress"]["step"]) == (1, 3)
    assert [(role["role"], role["num_actors"]) for role in running["roles"]] == [("trainer", 1), ("rollout", 1)]
    assert (waiting["waiting_code"], waiting["queue_position"], queue["num_queued"]) == ("quota", 1, 1)
    assert "quota is raised" in waiting["unblocked_when"]
    assert (waiting["start"]["likely"], waiting["start"]["num_records"]) == (None, 0)
    assert (await client.get("/api/v1/queue", params={"offset": 1})).json()["queued"] == []


async def test_standings_are_parts_of_all_but_show_only_ones_own_projects(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, sessions: Sessions
) -> None:
    await fill(sessions)
    async with sessions.begin() as session:
        await projects.create(session, None, "other")

    project, user = (await client.get("/api/v1/queue/standings")).json()["items"]

    assert (project["project"], project["user"], user["user"]) == ("default", None, "ada")
    assert (project["usage_part"], project["share_part"]) == (0.75, 0.75)
    assert (user["usage_part"], user["share_part"], user["num_running"], user["num_queued"]) == (1.0, 1.0, 1, 1)
    assert project["gpu_hours"] == pytest.approx(1.0, abs=0.01) and user["gpu_hours"] is None
    async with sessions.begin() as session:
        outsider = await make_user(session, "eve", project="other", role=ProjectRole.VIEWER)
        anonymous.headers["Authorization"] = f"Bearer {(await auth.issue_token(session, outsider, 'tests'))[1]}"
    seen = (await anonymous.get("/api/v1/queue/standings")).json()["items"]
    assert {row["project"] for row in seen} == {"other"}


async def test_the_cluster_has_living_and_lost_nodes_and_ones_own_actors(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    runs, _ = await fill(sessions)

    detail = (await client.get("/api/v1/cluster")).json()

    head, lost = detail["nodes"]
    assert (head["name"], head["num_gpus_taken"], head["num_cpus_taken"], head["ray_cpus_held"]) == (
        "10.0.0.1",
        1,
        2,
        4,
    )
    assert (lost["id"], lost["is_alive"], lost["num_cpus_taken"], lost["ray_cpus_held"]) == ("lost", False, 2, None)
    assert detail["by_gpu_type"] == [{"gpu_type": "H100", "num_gpus": 2, "num_gpus_taken": 1}]
    [actors] = detail["actors"]
    assert (actors["experiment_id"], actors["nodes"]) == (runs, ["lost", "n1"])
