"""Stand-ins at the seams of the system, which fail on demand."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

TOKEN = "fake-ray-token"


async def nothing(_: str) -> None:
    """What happens beside a request unless a test says otherwise."""


@dataclass
class FakeRay(httpx.AsyncBaseTransport):
    """Ray's dashboard as far as the service uses it, with what was measured of Ray 2.60: a second submission of an id
    is an internal error, and a stop of a pending job is acknowledged and does nothing.
    """

    session_name: str = "session_1"
    num_cpus: float = 2.0
    num_gpus: float = 0.0
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    actors: list[dict[str, Any]] = field(default_factory=list)
    stacks: dict[int, str] = field(default_factory=dict)
    """By process id; of any other py-spy sees nothing."""
    accepted: list[str] = field(default_factory=list)
    """Every submission that made a job."""
    stops: list[str] = field(default_factory=list)
    unwatched: set[str] = field(default_factory=set)
    """Jobs whose supervisor is dead, whatever the job's entry says."""
    waiting: set[str] = field(default_factory=set)
    """Jobs whose supervisor has no place yet."""
    dead_nodes: set[str] = field(default_factory=set)
    groups: list[dict[str, Any]] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    """Orders of the sweep jobs; each is done at once, and reports what `leftovers` holds."""
    leftovers: list[dict[str, Any]] = field(default_factory=list)
    sweep_status: str = "SUCCEEDED"
    down: bool = False
    """Nothing answers."""
    lost_answers: int = 0
    """So many submissions will be done and their answers lost."""
    refusals: int = 0
    """So many submissions will be refused, with an error inside Ray."""
    meanwhile: Callable[[str], Awaitable[None]] = nothing
    """Awaited with `before …` and `after …` every request: what others do at that moment, or the end of the caller."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request to the dashboard."""
        what = f"{request.method} {request.url.path}"
        await self.meanwhile(f"before {what}")
        if self.down:
            raise httpx.ConnectError("connection refused", request=request)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return httpx.Response(401, text="Unauthorized", request=request)
        response = self._answer(request)
        response.request = request
        await self.meanwhile(f"after {what}")
        return response

    def set_job(self, submission_id: str, status: str, **facts: Any) -> None:
        """Lets a job go on to `status`."""
        self.jobs[submission_id] |= {"status": status, **facts}

    def restart(self) -> None:
        """A new head without the memory of the old one."""
        self.session_name = f"session_{int(self.session_name.split('_')[1]) + 1}"
        self.jobs.clear()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        match request.method, path.strip("/").split("/"):
            case "GET", ["api", "version"]:
                return httpx.Response(200, json={"ray_version": "2.60.0", "session_name": self.session_name})
            case "GET", ["api", "v0", "nodes"]:
                return httpx.Response(200, json=self._nodes())
            case "GET", ["api", "v0", "actors"]:
                return httpx.Response(200, json=_listing([*self.actors, *self._supervisors()], request.url.params))
            case "GET", ["api", "v0", "placement_groups"]:
                return httpx.Response(200, json=_listing(self.groups, request.url.params))
            case "GET", ["worker", "traceback"]:
                stack = self.stacks.get(int(request.url.params["pid"]))
                return httpx.Response(200, text=stack) if stack else httpx.Response(500, text="no such process")
            case "POST", ["api", "jobs"]:
                return self._submit(json.loads(request.content))
            case "GET", ["api", "jobs", submission_id] if submission_id in self.jobs:
                return httpx.Response(200, json=self.jobs[submission_id])
            case "POST", ["api", "jobs", submission_id, "stop"] if submission_id in self.jobs:
                return self._stop(submission_id)
            case "GET", ["api", "v0", "logs", "file"]:
                return self._log(request.url.params)
        return httpx.Response(404, text=f"{path} does not exist")

    def _nodes(self) -> dict[str, Any]:
        resources = {"CPU": self.num_cpus, "memory": 1e9}
        if self.num_gpus:
            resources["GPU"] = self.num_gpus
        nodes = [{"node_id": "n1", "state": "ALIVE", "resources_total": resources}]
        nodes = [node for node in nodes if node["node_id"] not in self.dead_nodes]
        nodes.append({"node_id": "n0", "state": "DEAD", "resources_total": {"CPU": 64.0}})
        return _listing(nodes, httpx.QueryParams())

    def add_actor(self, submission_id: str, class_name: str, pid: int, **facts: Any) -> None:
        """An actor of this job's driver, alive unless said otherwise."""
        job = self.jobs[submission_id]
        job.setdefault("job_id", f"{len(self.jobs):02d}000000")
        self.actors.append(
            {
                "actor_id": f"{len(self.actors):032d}",
                "class_name": class_name,
                "name": "",
                "ray_namespace": "",
                "state": "ALIVE",
                "job_id": job["job_id"],
                "node_id": "n1",
                "pid": pid,
                "is_detached": False,
                "death_cause": None,
            }
            | facts
        )

    def _submit(self, body: dict[str, Any]) -> httpx.Response:
        if self.refusals:
            self.refusals -= 1
            return httpx.Response(500, text="Traceback …\nNo available agent to submit job, please try again later.")
        submission_id = body["submission_id"]
        if submission_id in self.jobs:
            return httpx.Response(500, text=f"Traceback …\nValueError: Job {submission_id} already exists.\n.\n")
        self.accepted.append(submission_id)
        self.jobs[submission_id] = {
            **body,
            "status": "PENDING",
            "message": "Job has not started yet.",
            "error_type": None,
            "driver_exit_code": None,
            "driver_node_id": "n1",
        }
        if self.lost_answers:
            self.lost_answers -= 1
            raise httpx.ReadTimeout("no answer in time")
        self._sweep(submission_id)
        return httpx.Response(200, json={"job_id": submission_id, "submission_id": submission_id})

    def _sweep(self, submission_id: str) -> None:
        orders = self.jobs[submission_id].get("runtime_env", {}).get("env_vars", {}).get("SEDRAY_SWEEP")
        if orders is not None:
            self.sweeps.append(json.loads(orders))
            self.set_job(submission_id, self.sweep_status)
            self.logs[submission_id] = ["starting", f"SEDRAY-SWEPT {json.dumps({'processes': self.leftovers})}"]

    def _supervisors(self) -> list[dict[str, Any]]:
        watched = [one for one, job in self.jobs.items() if job["status"] in ("PENDING", "RUNNING")]
        return [
            {
                "actor_id": f"supervisor of {one}",
                "class_name": "JobSupervisor",
                "name": f"_ray_internal_job_actor_{one}",
                "ray_namespace": "SUPERVISOR_ACTOR_RAY_NAMESPACE",
                "state": "PENDING_CREATION" if one in self.waiting else "DEAD" if one in self.unwatched else "ALIVE",
                "job_id": "ff000000",
                "node_id": "n1",
                "pid": 7,
            }
            for one in watched
        ]

    def _stop(self, submission_id: str) -> httpx.Response:
        self.stops.append(submission_id)
        status = self.jobs[submission_id]["status"]
        if status == "RUNNING":
            self.set_job(submission_id, "STOPPED", message="Job was intentionally stopped.")
        return httpx.Response(200, json={"stopped": status in ("RUNNING", "PENDING")})

    def _log(self, query: httpx.QueryParams) -> httpx.Response:
        lines = self.logs.get(query["filename"].removeprefix("job-driver-").removesuffix(".log"))
        if lines is None:
            return httpx.Response(500, text="no such file")
        return httpx.Response(200, text="\n".join(lines[-int(query["lines"]) :]) + "\n")


def _listing(entries: list[dict[str, Any]], query: httpx.QueryParams) -> dict[str, Any]:
    """As the state API answers, its equality filters applied."""
    wanted = list(zip(query.get_list("filter_keys"), query.get_list("filter_values"), strict=True))
    found = [entry for entry in entries if all(entry.get(key) == value for key, value in wanted)]
    return {"result": True, "data": {"result": {"total": len(found), "result": found}}}
