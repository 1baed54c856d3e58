"""Ray's dashboard over HTTP (Ray 2.60): every call with a deadline, every answer typed.

A failed submit proves nothing: the answer may be lost, and a job that exists already is reported as an internal error.
So whatever went wrong, the id is looked up, and a job with our metadata is taken as the one that was submitted.
"""

import asyncio
from pathlib import Path
from typing import Self

import httpx

from service.errors import RayUnreachable
from service.scheduler.ray_http import RayHttp, as_json, expect_ok
from service.scheduler.ray_jobs import (
    SUPERVISOR_NAMESPACE,
    ClusterView,
    ForeignJob,
    RayActor,
    RayJob,
    RayJobRequest,
    SubmitRefused,
    is_same_job,
)
from service.scheduler.ray_parsing import parse_actor, parse_cluster, parse_job

_STACK_CHARACTERS = 40_000
CANARY = "sedray-canary"
"""A job that has done nothing, to poke Ray with."""


class RayDashboard:
    """The gateway to a real cluster."""

    def __init__(
        self,
        url: str,
        token_file: Path,
        *,
        timeout_s: float,
        agent_port: int = 52365,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`token_file` is read for each request, so that a new token needs no restart; `timeout_s` bounds each call.

        `agent_port` is that of Ray's agent on every node.
        """
        self._agent_port = agent_port
        self._http = RayHttp(url, token_file, timeout_s=timeout_s, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def submit(self, request: RayJobRequest) -> RayJob:
        """See RayGateway; looks the id up first, so that a job submitted by a scheduler that died is found."""
        existing = await self.get(request.submission_id)
        if existing is not None:
            return _ours(existing, request)
        refusal = await self._post_job(request)
        found = await self.get(request.submission_id)
        if found is not None:
            return _ours(found, request)
        raise SubmitRefused(f"Ray did not take the job: {refusal}")

    async def get(self, submission_id: str) -> RayJob | None:
        """See RayGateway."""
        response = await self._http.call("GET", f"/api/jobs/{submission_id}")
        return None if response.status_code == 404 else parse_job(as_json(expect_ok(response)))

    async def stop(self, submission_id: str) -> None:
        """See RayGateway."""
        response = await self._http.call("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code != 404:
            expect_ok(response)

    async def logs_tail(self, job: RayJob, num_lines: int) -> list[str]:
        """See RayGateway. Ray finds the file by node; a job that never reached a node has none."""
        if job.driver_node_id is None:
            return []
        filename = f"job-driver-{job.submission_id}.log"
        query = {"node_id": job.driver_node_id, "filename": filename, "lines": str(num_lines)}
        response = await self._http.call("GET", "/api/v0/logs/file", params=query)
        return response.text.splitlines()[-num_lines:] if response.status_code == 200 else []

    async def cluster(self) -> ClusterView:
        """See RayGateway. Until the first node has registered the capacity is 0."""
        version = await self._http.get_json("/api/version")
        nodes = await self._http.list_state("nodes", state="ALIVE")
        supervisors = [*await self._supervisors("ALIVE"), *await self._supervisors("PENDING_CREATION")]
        return parse_cluster(version, nodes, supervisors, await self._standing_groups())

    async def actors(self, ray_job_id: str) -> list[RayActor]:
        """See RayGateway."""
        return [parse_actor(entry) for entry in await self._http.list_state("actors", job_id=ray_job_id)]

    async def open_doors(self, view: ClusterView) -> list[str]:
        """See RayGateway. A door that nobody answers at is closed."""
        doors = {"the dashboard": "/api/jobs/"}
        doors |= {
            f"the agent on {ip}": f"http://{ip}:{self._agent_port}/api/job_agent/jobs/" for ip in sorted(view.node_ips)
        }
        answers = await asyncio.gather(*(self._http.post_without_token(url) for url in doors.values()))
        return [
            f"{who} answers {status} without a token"
            for who, status in zip(doors, answers, strict=True)
            if status not in (None, 401, 403)
        ]

    async def placement_groups(self, ray_job_id: str) -> list[str]:
        """See RayGateway."""
        groups = await self._http.list_state("placement_groups", creator_job_id=ray_job_id)
        return [str(group["placement_group_id"]) for group in groups if group.get("state") != "REMOVED"]

    async def poke(self) -> None:
        """See RayGateway. A job that did nothing is stopped again: that reaches the agent which keeps the jobs."""
        if await self.get(CANARY) is None:
            request = RayJobRequest(
                submission_id=CANARY,
                entrypoint="true",
                env_vars={},
                metadata={"attempt": CANARY, "spec_sha256": ""},
            )
            await self._post_job(request)
        else:
            await self.stop(CANARY)

    async def stacks(self, node_id: str, pid: int) -> str:
        """See RayGateway. Ray allows it where its head runs with RAY_DASHBOARD_ENABLE_PROFILING=1."""
        query = {"node_id": node_id, "pid": str(pid), "native": "0"}
        response = await self._http.call("GET", "/worker/traceback", params=query)
        said = response.text.strip()[:_STACK_CHARACTERS]
        return said if response.status_code == 200 else f"not to be had: {said or f'HTTP {response.status_code}'}"

    async def _standing_groups(self) -> list[dict[str, object]] | None:
        """For people to compare with our ledger; nothing is decided by it, so its absence is no silence of Ray's."""
        try:
            return await self._http.list_state("placement_groups", state="CREATED")
        except RayUnreachable:
            return None

    async def _supervisors(self, state: str) -> list[RayActor]:
        """Ray filters by state before it cuts its list off, so the many dead ones hide no living one."""
        found = await self._http.list_state("actors", state=state, ray_namespace=SUPERVISOR_NAMESPACE)
        return [parse_actor(entry) for entry in found]

    async def _post_job(self, request: RayJobRequest) -> str:
        """Posts the job; returns what Ray said, or why there was no answer: only the look-up afterwards decides."""
        body: dict[str, object] = {
            "submission_id": request.submission_id,
            "entrypoint": request.entrypoint,
            # The driver holds nothing; its placement group takes what the ledger has set aside.
            "entrypoint_num_cpus": 0,
            "runtime_env": {"env_vars": dict(request.env_vars)},
            "metadata": dict(request.metadata),
        }
        if request.labels:
            body["entrypoint_label_selector"] = dict(request.labels)
        try:
            response = await self._http.call("POST", "/api/jobs/", json=body)
        except RayUnreachable as error:
            return error.message
        last_line = next((line for line in reversed(response.text.splitlines()) if line.strip(" .")), "no text")
        return f"HTTP {response.status_code}: {last_line[:500]}"


def _ours(job: RayJob, request: RayJobRequest) -> RayJob:
    if is_same_job(job, request):
        return job
    raise ForeignJob(
        f"Ray has another job under the id {job.submission_id}: another service uses this cluster, or its database was "
        "set back; give each service a cluster of its own"
    )
