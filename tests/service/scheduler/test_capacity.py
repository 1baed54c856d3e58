import pytest

from service import queue
from service.scheduler.capacity import Bounds, record_sight, record_silence
from service.scheduler.node_memory import NodeMemory
from service.scheduler.ray_jobs import ClusterView
from service.storage.clock import database_now
from service.storage.database import Sessions

pytestmark = pytest.mark.anyio


async def test_memory_is_kept_as_last_seen(sessions: Sessions) -> None:
    memory = NodeMemory(node_bytes=8e9, total_bytes=12e9, gpu_bytes=80e9)
    view = ClusterView(session_name="session_1", num_cpus=2.0, num_gpus=1.0, num_nodes=2, memory=memory)
    async with sessions.begin() as session:
        await record_sight(session, view, Bounds(num_cpus=None, num_gpus=None), await database_now(session))
    async with sessions.begin() as session:
        await record_silence(session, "no answer", await database_now(session))
    async with sessions() as session:
        seen = await queue.cluster_state(session)
    assert seen is not None
    assert (seen.reachable, seen.node_memory_bytes, seen.memory_bytes, seen.gpu_memory_bytes) == (
        False,
        8e9,
        12e9,
        80e9,
    )
