"""Ray's dashboard over HTTP (Ray 2.60): every call with a deadline, every answer typed.

A failed submit proves nothing: the answer may be lost, and a job that exists already is reported as an internal error.
So whatever went wrong, the id is looked up, and a job with our metadata is taken as the one that was submitted.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from service.errors import RayUnreachable
from service.scheduler.node_memory import read_gpu_type, read_node_memory
from service.scheduler.ray_jobs import (
    ClusterView,
    ForeignJob,
    NodeView,
    RayJob,
    RayJobRequest,
    RayJobStatus,
    SubmitRefused,
    is_same_job,
)


class RayDashboard:
    """The gateway to a real cluster."""

    def __init__(
        self, url: str, token_file: Path, *, timeout_s: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """`token_file` is read for each request, so that a new token needs no restart; `timeout_s` bounds each call."""
        self._token_file = token_file
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            transport=transport,
            # The token of the cluster is for the cluster: it goes through no proxy that the environment names.
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

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
        response = await self._call("GET", f"/api/jobs/{submission_id}")
        if response.status_code == 404:
            return None
        return _parse_job(_json(_expect_ok(response)))

    async def stop(self, submission_id: str) -> None:
        """See RayGateway."""
        response = await self._call("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code != 404:
            _expect_ok(response)

    async def logs_tail(self, job: RayJob, num_lines: int) -> list[str]:
        """See RayGateway. Ray finds the file by node; a job that never reached a node has none."""
        if job.driver_node_id is None:
            return []
        filename = f"job-driver-{job.submission_id}.log"
        query = {"node_id": job.driver_node_id, "filename": filename, "lines": str(num_lines)}
        response = await self._call("GET", "/api/v0/logs/file", params=query)
        return response.text.splitlines()[-num_lines:] if response.status_code == 200 else []

    async def cluster(self) -> ClusterView:
        """See RayGateway. Until the first node has registered the capacity is 0."""
        version = _json(_expect_ok(await self._call("GET", "/api/version")))
        query = {
            "detail": "1",
            "limit": "10000",
            "filter_keys": "state",
            "filter_predicates": "=",
            "filter_values": "ALIVE",
        }
        listing = _json(_expect_ok(await self._call("GET", "/api/v0/nodes", params=query)))
        try:
            living = [node for node in listing["data"]["result"]["result"] if node["state"] == "ALIVE"]
            nodes = [node["resources_total"] for node in living]
            cpus, gpus = ([float(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
            return ClusterView(
                session_name=version["session_name"],
                num_cpus=sum(cpus),
                num_gpus=sum(gpus),
                num_nodes=len(nodes),
                node_num_cpus=max(cpus, default=0.0),
                node_num_gpus=max(gpus, default=0.0),
                memory=read_node_memory(nodes),
                nodes=tuple(_node_view(node) for node in living),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _not_understood("the list of nodes") from error

    async def _post_job(self, request: RayJobRequest) -> str:
        """Posts the job; returns what Ray said, or why there was no answer: only the look-up afterwards decides."""
        body = {
            "submission_id": request.submission_id,
            "entrypoint": request.entrypoint,
            # The driver holds nothing; its placement group takes what the ledger has set aside.
            "entrypoint_num_cpus": 0,
            "runtime_env": {"env_vars": dict(request.env_vars)},
            "metadata": dict(request.metadata),
        }
        try:
            response = await self._call("POST", "/api/jobs/", json=body)
        except RayUnreachable as error:
            return error.message
        last_line = next((line for line in reversed(response.text.splitlines()) if line.strip(" .")), "no text")
        return f"HTTP {response.status_code}: {last_line[:500]}"

    async def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise RayUnreachable(f"Ray's token file cannot be read ({error}); set SEDRAY_RAY_TOKEN_FILE") from error
        try:
            response = await self._http.request(method, path, headers={"Authorization": f"Bearer {token}"}, **arguments)
        except httpx.HTTPError as error:
            detail = str(error) or type(error).__name__
            raise RayUnreachable(f"no answer from Ray's dashboard at {self._http.base_url}: {detail}") from error
        if response.status_code in (401, 403):
            raise RayUnreachable(
                f"Ray's dashboard refuses the token in {self._token_file}; put the cluster's token there"
            )
        return response


def _node_view(node: Mapping[str, Any]) -> NodeView:
    resources = node["resources_total"]
    return NodeView(
        id=node["node_id"],
        num_cpus=float(resources.get("CPU", 0)),
        num_gpus=float(resources.get("GPU", 0)),
        gpu_type=read_gpu_type(resources),
    )


def _ours(job: RayJob, request: RayJobRequest) -> RayJob:
    if is_same_job(job, request):
        return job
    raise ForeignJob(
        f"Ray has another job under the id {job.submission_id}: another service uses this cluster, or its database was "
        "set back; give each service a cluster of its own"
    )


def _expect_ok(response: httpx.Response) -> httpx.Response:
    """An error of Ray's own says as little about the job as silence does."""
    if response.status_code != 200:
        path = response.request.url.path
        raise RayUnreachable(f"Ray's dashboard answered {path} with HTTP {response.status_code}")
    return response


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except json.JSONDecodeError as error:
        raise _not_understood(response.request.url.path) from error
    if not isinstance(body, dict):
        raise _not_understood(response.request.url.path)
    return body


def _parse_job(body: Mapping[str, Any]) -> RayJob:
    try:
        return RayJob(
            submission_id=body["submission_id"],
            status=RayJobStatus(body["status"]),
            message=body["message"] or "",
            error_type=body["error_type"],
            driver_exit_code=body["driver_exit_code"],
            driver_node_id=body["driver_node_id"],
            metadata=body["metadata"] or {},
        )
    except (KeyError, ValueError) as error:
        raise _not_understood("a job") from error


def _not_understood(what: str) -> RayUnreachable:
    return RayUnreachable(f"Ray's answer about {what} is not understood; the service needs Ray 2.60")
