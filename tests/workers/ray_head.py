"""A local Ray head of a test's own: free ports, its own temporary folder, and nothing left of it afterwards."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import ray

_START_S = 60.0

RAY_MARKS = [
    pytest.mark.slow,
    # Ray leaves sockets and files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
"""Of every test that talks to a real Ray from its own process."""


@contextmanager
def ray_head(num_cpus: int) -> Iterator[str]:
    """Starts `ray start --head`; yields its address (host:port)."""
    # Ray's sockets lie in this folder, and a socket's path may have 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="sedray-ray-", dir="/tmp"))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            _command(address, folder, num_cpus),
            env=ray_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_started(address, head, folder)
            yield address
        finally:
            _stop(head)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def connected_ray(num_cpus: int) -> Iterator[None]:
    """This process as a driver of a head of its own."""
    with pytest.MonkeyPatch.context() as patch, ray_head(num_cpus) as address:
        for name, value in ray_environment().items():
            patch.setenv(name, value)
        ray.init(address=address, namespace="sedray-test", log_to_driver=False)
        yield
        ray.shutdown()


def ray_environment() -> dict[str, str]:
    """The environment of Ray's processes in tests: nobody else's cluster, no authentication, no network."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return ours | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


def actor_processes(*marks: str) -> list[psutil.Process]:
    """Actors of a cluster that this process has started, and what vLLM starts; or those with certain titles only."""
    wanted = marks or ("ray::Trainer", "ray::RolloutEngine", "VLLM::")
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.is_running() and any(mark in _title(child) for mark in wanted)]


def _title(process: psutil.Process) -> str:
    """Its command line, or nothing if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _command(address: str, folder: Path, num_cpus: int) -> list[str]:
    ports = (
        "node-manager-port",
        "object-manager-port",
        "ray-client-server-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
    )
    return [
        f"{Path(sys.executable).parent}/ray",
        *("start", "--head", "--block", "--include-dashboard=false", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", f"--num-cpus={num_cpus}"),
        *("--object-store-memory=200000000", f"--temp-dir={folder}"),
        *(f"--{port}={free_port()}" for port in ports),
    ]


def _wait_started(address: str, head: "subprocess.Popen[bytes]", folder: Path) -> None:
    limit = time.monotonic() + _START_S
    while time.monotonic() < limit and head.poll() is None:
        if "Ray runtime started" in (folder / "head.log").read_text(errors="replace"):
            return
        time.sleep(0.2)
    raise AssertionError(f"Ray did not start at {address}: {(folder / 'head.log').read_text(errors='replace')}")


def _stop(head: "subprocess.Popen[bytes]") -> None:
    head.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        head.wait(timeout=15.0)
    # Whatever its own stop has missed shares its session.
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
    head.wait(timeout=15.0)


def only_node(cluster: str) -> str:
    """Ray's id of the cluster's node, asked in a process of its own: this one must not join a cluster."""
    code = "import ray; ray.init(logging_level='ERROR'); print(ray.nodes()[0]['NodeID'])"
    environment = ray_environment() | {"RAY_ADDRESS": cluster}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.split()[-1]
