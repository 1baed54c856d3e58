"""What Ray can still tell of an attempt that is over or must end: evidence, gathered before anything is stopped.

Evidence is worth some requests, not a delay of the verdict: whatever Ray does not tell in time is left out.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from service.contract.oom_signs import find_oom_signs
from service.contract.status import EndReason
from service.errors import RayUnreachable
from service.scheduler.ray_jobs import RayActor, RayGateway, RayJob

LOG_TAIL_LINES = 200
_LINE_CHARACTERS = 4000
_MESSAGE_CHARACTERS = 20_000
_MAX_STACKS = 16
_DEADLINE_S = 30.0


def job_facts(job: RayJob) -> dict[str, Any]:
    """What the job's own entry says."""
    return {
        "ray_status": job.status.value,
        "ray_message": job.message[:_MESSAGE_CHARACTERS],
        "ray_error_type": job.error_type,
        "driver_exit_code": job.driver_exit_code,
    }


async def examine(gateway: RayGateway, job: RayJob, *, with_stacks: bool) -> dict[str, Any]:
    """The evidence for an end that the scheduler declares: job, log, dead actors, and stacks of what stands still."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            tail, actors = await asyncio.gather(_tail(gateway, job), _actors(gateway, job))
            stacks = await _stacks(gateway, job, actors) if with_stacks else []
    except TimeoutError:
        return job_facts(job) | {"log_tail": []}
    facts = job_facts(job) | {"log_tail": tail, "dead_actors": [_epitaph(one) for one in actors if one.is_dead]}
    return facts | ({"stacks": stacks} if stacks else {})


def refine(reason: EndReason, evidence: Mapping[str, Any]) -> EndReason:
    """What Ray saw may say more than that the driver went without a word: memory that ran out does so again."""
    if reason is not EndReason.RAY_JOB_FAILED:
        return reason
    told = [str(evidence.get("ray_message", "")), *evidence.get("dead_actors", [])]
    return EndReason.OUT_OF_MEMORY if find_oom_signs(told) else reason


async def _tail(gateway: RayGateway, job: RayJob) -> list[str]:
    try:
        return [line[:_LINE_CHARACTERS] for line in await gateway.logs_tail(job, LOG_TAIL_LINES)]
    except RayUnreachable:
        return []


async def _actors(gateway: RayGateway, job: RayJob) -> list[RayActor]:
    try:
        return await gateway.actors(job.ray_job_id) if job.ray_job_id else []
    except RayUnreachable:
        return []


async def _stacks(gateway: RayGateway, job: RayJob, actors: Iterable[RayActor]) -> list[dict[str, str]]:
    processes = [(f"{one.class_name}:{one.pid}", one.node_id, one.pid) for one in actors if one.state == "ALIVE"]
    known = [(name, node, pid) for name, node, pid in [("driver", job.driver_node_id, job.driver_pid), *processes]]
    looked = [(name, node, pid) for name, node, pid in known if node and pid][:_MAX_STACKS]
    texts = await asyncio.gather(*(_stack(gateway, node, pid) for _, node, pid in looked))
    return [{"process": name, "text": text} for (name, _, _), text in zip(looked, texts, strict=True)]


async def _stack(gateway: RayGateway, node_id: str, pid: int) -> str:
    try:
        return await gateway.stacks(node_id, pid)
    except RayUnreachable as error:
        return f"not to be had: {error.message}"


def _epitaph(actor: RayActor) -> str:
    return f"{actor.class_name}:{actor.pid or '?'}: {actor.death or 'no reason given'}"
