"""The processes of the containers, started by the files' own commands and variables without any container."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from ray.scripts.scripts import start as ray_start

from tests.deploy.test_compose import compose
from tests.deploy.test_kubernetes import named, pods
from tests.service.scheduler.test_real_ray import free_ports

pytestmark = pytest.mark.slow


def command_of(name: str) -> list[str]:
    """Of a service in compose, with this interpreter."""
    command: list[str] = compose()["services"][name]["command"]
    return [sys.executable if part == "python" else part for part in command]


def environment_of(name: str, places: dict[str, str]) -> dict[str, str]:
    """Its variables, with this machine's places instead of the containers'."""
    given: dict[str, str] = compose()["services"][name]["environment"]
    return {variable: places.get(variable, value) for variable, value in given.items()}


@contextmanager
def running(name: str, places: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command_of(name), env=os.environ | environment_of(name, places))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def answer(url: str) -> httpx.Response:
    """The first good one within a minute."""
    for _ in range(300):
        try:
            response = httpx.get(url, timeout=5)
            if response.status_code == 200:
                return response
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(url)


def test_migrate_two_apis_and_two_schedulers_come_up_as_the_files_say(empty_database_url: str, tmp_path: Path) -> None:
    for name in ("secret_key", "ray_token"):
        (tmp_path / name).write_text("k" * 64)
    ports = free_ports(6)
    places = {
        "SEDRAY_DATABASE_URL": empty_database_url,
        "SEDRAY_SECRET_KEY_FILE": str(tmp_path / "secret_key"),
        "SEDRAY_OUTPUT_ROOT": str(tmp_path / "outputs"),
        "SEDRAY_PUBLIC_URL": "http://sedray.test",
        "SEDRAY_RAY_DASHBOARD_URL": "http://127.0.0.1:9",
        "SEDRAY_RAY_TOKEN_FILE": str(tmp_path / "ray_token"),
        "SEDRAY_WORKER_DIR": str(tmp_path / "work"),
    }
    migrate = subprocess.run(command_of("migrate"), env=os.environ | environment_of("migrate", places), timeout=120)
    assert migrate.returncode == 0
    with ExitStack() as stack:
        apis = [
            stack.enter_context(running("api", {**places, "SEDRAY_PORT": str(port), "SEDRAY_METRICS_PORT": str(told)}))
            for port, told in zip(ports[:2], ports[2:4], strict=True)
        ]
        for told in ports[4:]:
            stack.enter_context(running("scheduler", {**places, "SEDRAY_METRICS_PORT": str(told)}))
        assert all(answer(f"http://127.0.0.1:{port}/readyz").json()["database"] == "ok" for port in ports[:2])
        leading = [leads(port) for port in ports[4:]]
        assert sorted(leading) == [0.0, 1.0]
        assert "sedray_http_requests_total" in answer(f"http://127.0.0.1:{ports[2]}/metrics").text
        apis[0].kill()
        assert httpx.get(f"http://127.0.0.1:{ports[1]}/readyz").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{ports[1]}/metrics").status_code == 404, "figures have a port of their own"


def leads(port: int) -> float:
    """What a scheduler says of itself, once one of them has had time to lead."""
    time.sleep(3)
    told = answer(f"http://127.0.0.1:{port}/metrics").text
    found = re.search(r"^sedray_scheduler_leads (\S+)$", told, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_kubernetes_runs_the_same_commands() -> None:
    found = {name: pod["spec"]["containers"][0].get("command") for name, pod in pods()}
    for name in ("migrate", "api", "scheduler"):
        assert found[name] == compose()["services"][name]["command"]


def test_ray_knows_every_option_that_the_files_give_it() -> None:
    known = {option for parameter in ray_start.params for option in parameter.opts}  # --help hides some of them
    options = {
        part.split("=")[0] for name in ("ray-head", "ray-worker") for part in compose()["services"][name]["command"]
    }
    cluster = named("RayCluster", "sedray")["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    options |= {f"--{name}" for group in groups for name in group["rayStartParams"]}
    assert {option for option in options if option.startswith("--") and option not in known} == set()
    assert json.loads(compose()["services"]["scheduler"]["environment"]["SEDRAY_DRIVER_LABELS"])
