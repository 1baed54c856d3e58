"""The client of Ray's dashboard, against a server that behaves as Ray 2.60 was seen to."""

from pathlib import Path

import httpx
import pytest

from service.errors import RayUnreachable
from service.scheduler.node_memory import NodeMemory
from service.scheduler.ray_gateway import RayDashboard
from service.scheduler.ray_jobs import ClusterView, ForeignJob, NodeView, RayJobRequest, RayJobStatus, SubmitRefused
from tests.fakes import FakeRay

pytestmark = pytest.mark.anyio


def request_for(attempt: str = "exp-1-a1", spec: str = "abc") -> RayJobRequest:
    return RayJobRequest(
        submission_id="sedray-exp-1-a1",
        entrypoint="python -m workers.pipeline",
        env_vars={"SEDRAY_ATTEMPT_ID": attempt},
        metadata={"experiment": "exp-1", "attempt": attempt, "spec_sha256": spec},
    )


async def test_a_submitted_job_is_found(ray: FakeRay, gateway: RayDashboard) -> None:
    job = await gateway.submit(request_for())
    assert job == await gateway.get("sedray-exp-1-a1")
    assert job.status is RayJobStatus.PENDING
    assert ray.jobs["sedray-exp-1-a1"]["entrypoint_num_cpus"] == 0


async def test_a_job_that_exists_is_adopted_and_not_submitted_again(ray: FakeRay, gateway: RayDashboard) -> None:
    await gateway.submit(request_for())
    ray.set_job("sedray-exp-1-a1", "RUNNING")
    assert (await gateway.submit(request_for())).status is RayJobStatus.RUNNING
    assert ray.accepted == ["sedray-exp-1-a1"]


async def test_a_submission_whose_answer_was_lost_is_adopted(ray: FakeRay, gateway: RayDashboard) -> None:
    ray.lost_answers = 1
    assert (await gateway.submit(request_for())).status is RayJobStatus.PENDING
    assert ray.accepted == ["sedray-exp-1-a1"]


async def test_an_error_for_a_duplicate_id_is_adopted(ray: FakeRay, gateway: RayDashboard) -> None:
    async def somebody_is_faster(what: str) -> None:
        if what == "before POST /api/jobs/" and not ray.jobs:
            rival = request_for()
            ray._submit({"submission_id": rival.submission_id, "metadata": dict(rival.metadata)})

    ray.meanwhile = somebody_is_faster
    assert (await gateway.submit(request_for())).metadata["attempt"] == "exp-1-a1"
    assert len(ray.accepted) == 1


async def test_a_job_of_another_specification_is_not_ours(gateway: RayDashboard) -> None:
    await gateway.submit(request_for(spec="abc"))
    with pytest.raises(ForeignJob, match="another job under the id sedray-exp-1-a1"):
        await gateway.submit(request_for(spec="def"))


async def test_a_refusal_carries_the_last_line_of_rays_traceback(ray: FakeRay, gateway: RayDashboard) -> None:
    ray.refusals = 1
    with pytest.raises(SubmitRefused, match=r"HTTP 500: No available agent to submit job"):
        await gateway.submit(request_for())


async def test_an_unknown_job_is_none_and_stopping_it_does_nothing(gateway: RayDashboard) -> None:
    assert await gateway.get("nope") is None
    await gateway.stop("nope")


async def test_only_living_nodes_count(ray: FakeRay, gateway: RayDashboard) -> None:
    ray.num_gpus = 1.0
    memory = NodeMemory(node_bytes=1e9, total_bytes=1e9)
    view = ClusterView(
        session_name="session_1",
        num_cpus=2.0,
        num_gpus=1.0,
        num_nodes=1,
        node_num_cpus=2.0,
        node_num_gpus=1.0,
        memory=memory,
        nodes=(NodeView(id="n1", num_cpus=2.0, num_gpus=1.0, name="10.0.0.1", memory_bytes=1e9),),
        held={},
        node_ids=frozenset({"n1"}),
        node_ips=frozenset({"10.0.0.1"}),
    )
    assert await gateway.cluster() == view


async def test_the_newest_lines_of_a_log(ray: FakeRay, gateway: RayDashboard) -> None:
    job = await gateway.submit(request_for())
    assert await gateway.logs_tail(job, 2) == []
    ray.logs["sedray-exp-1-a1"] = ["one", "two", "three"]
    assert await gateway.logs_tail(job, 2) == ["two", "three"]


async def test_silence_is_unreachable(ray: FakeRay, gateway: RayDashboard) -> None:
    ray.down = True
    with pytest.raises(RayUnreachable, match="no answer from Ray's dashboard"):
        await gateway.submit(request_for())


async def test_a_wrong_token_is_unreachable_and_read_anew(tmp_path: Path, gateway: RayDashboard) -> None:
    right = (tmp_path / "ray_token").read_text()
    (tmp_path / "ray_token").write_text("wrong")
    with pytest.raises(RayUnreachable, match="refuses the token"):
        await gateway.get("a")
    (tmp_path / "ray_token").write_text(right)
    assert await gateway.get("a") is None


async def test_a_missing_token_file_is_unreachable(tmp_path: Path, gateway: RayDashboard) -> None:
    (tmp_path / "ray_token").unlink()
    with pytest.raises(RayUnreachable, match="SEDRAY_RAY_TOKEN_FILE"):
        await gateway.cluster()


@pytest.mark.parametrize("answer", ["no json", "[]", '{"status": "DANCING"}', '{"submission_id": "a"}'])
async def test_an_answer_that_is_not_understood_is_unreachable(tmp_path: Path, answer: str) -> None:
    (tmp_path / "token").write_text("t")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=answer))
    async with RayDashboard("http://ray.test", tmp_path / "token", timeout_s=1, transport=transport) as gateway:
        with pytest.raises(RayUnreachable, match="not understood"):
            await gateway.get("a")
