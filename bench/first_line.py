"""From a submission over REST to the driver's first line, against a plain Ray job on the same cluster.

Both are told by the process that prints: the driver's own clock at its first line, less the clock before the request.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from api.client import SedrayClient
from bench.rows import Row
from bench.submissions import example_spec

ROUNDS = 5
_STACK_S = 180.0
_LINE_S = 120.0


def rows() -> dict[str, Row]:
    """Seconds to the first line, the medians of five; ours and the plain job's in turns."""
    ours, plain = [], []
    with _stack() as endpoint:
        token = Path(endpoint["token_file"]).read_text().strip()
        ray_token = Path(endpoint["ray_token_file"]).read_text().strip()
        with SedrayClient(endpoint["url"], token) as client:
            for number in range(ROUNDS):
                plain.append(_plain(endpoint["ray_dashboard_url"], ray_token, f"plain-{number}"))
                ours.append(_ours(client))
    return {"first_line_s_vs_plain_ray_job": Row(ours=statistics.median(ours), peer=statistics.median(plain), unit="s")}


@contextmanager
def _stack() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="sedray-bench-") as folder:
        command = [sys.executable, "-m", "service.embedded", "--data", folder, "--num-cpus", "2"]
        stack = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield _endpoint(Path(folder) / "endpoint.json")
        finally:
            stack.terminate()
            stack.wait(60)


def _endpoint(file: Path) -> dict[str, str]:
    deadline = time.monotonic() + _STACK_S
    while time.monotonic() < deadline:
        if file.exists():
            found: dict[str, str] = json.loads(file.read_text())
            return found
        time.sleep(0.2)
    raise TimeoutError("the local stack did not come up")


def _ours(client: SedrayClient) -> float:
    began = time.time()
    experiment = client.submit(example_spec(name=f"first-line-{os.getpid()}"))
    deadline = time.monotonic() + _LINE_S
    try:
        while time.monotonic() < deadline:
            lines = client.logs(experiment.id, source="driver", limit=1).items
            if lines:
                return lines[0].ts.timestamp() - began
            time.sleep(0.1)
    finally:
        client.cancel(experiment.id)
        _wait_until_free(client, experiment.id)
    raise TimeoutError("the driver printed nothing")


def _wait_until_free(client: SedrayClient, experiment_id: str) -> None:
    """The next round begins with an idle cluster."""
    while client.experiment(experiment_id).attempts[-1].released_at is None:
        time.sleep(0.2)


def _plain(url: str, token: str, submission_id: str) -> float:
    program = f"{sys.executable} -c 'import time; print(time.time())'"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as ray:
        began = time.time()
        ray.post("/api/jobs/", json={"submission_id": submission_id, "entrypoint": program}).raise_for_status()
        deadline = time.monotonic() + _LINE_S
        while time.monotonic() < deadline:
            if ray.get(f"/api/jobs/{submission_id}").json()["status"] == "SUCCEEDED":
                lines = ray.get(f"/api/jobs/{submission_id}/logs").json()["logs"].splitlines()
                return (
                    next(float(line) for line in lines if line[:1].isdigit() and "." in line and " " not in line)
                    - began
                )
            time.sleep(0.1)
    raise TimeoutError("the plain job printed nothing")
