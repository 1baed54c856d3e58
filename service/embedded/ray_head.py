"""A Ray head of our own: token authentication, loopback only, known ports, and a test that it is so."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from service.embedded.errors import StackError
from service.embedded.ports import Ports
from service.embedded.supervisor import Service, inherited_environment

_OBJECT_STORE_BYTES = 256 * 2**20
_HTTP_TIMEOUT_S = 5.0
KEPT_SESSIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RayAddress:
    """Where a Ray cluster's dashboard is, and the file that holds its token."""

    dashboard_url: str
    token_file: Path


def head_service(
    *, ports: Ports, num_cpus: int, temp_folder: Path, token_file: Path, log: Path, marker: tuple[str, str]
) -> Service:
    """How to run the head. Drivers and actors inherit its environment: no secret of the service may be in it."""
    first_worker, last_worker = ports.workers
    options: dict[str, str | int | Path] = {
        "--node-ip-address": "127.0.0.1",
        "--port": ports.gcs,
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": ports.dashboard,
        "--dashboard-agent-listen-port": ports.agent,
        "--dashboard-agent-grpc-port": ports.agent_grpc,
        "--runtime-env-agent-port": ports.runtime_env_agent,
        "--node-manager-port": ports.node_manager,
        "--object-manager-port": ports.object_manager,
        "--ray-client-server-port": ports.ray_client,
        "--metrics-export-port": ports.metrics_export,
        "--min-worker-port": first_worker,
        "--max-worker-port": last_worker,
        "--include-dashboard": "true",
        "--num-cpus": num_cpus,
        "--object-store-memory": _OBJECT_STORE_BYTES,
        "--temp-dir": temp_folder,
        "--log-style": "record",
        "--log-color": "false",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    return Service(
        name="ray",
        command=(*command, *(str(part) for option in options.items() for part in option)),
        environment={**inherited_environment("SEDRAY_"), **_environment(token_file), marker[0]: marker[1]},
        log=log,
        stop_deadline_s=5.0,
        leaves_orphans=True,
    )


def _environment(token_file: Path) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        # Without it Ray replaces 127.0.0.1 by the machine's outward address and listens on every interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Stacks of hung processes, for their death certificates; whoever has the token may run code anyway.
        "RAY_DASHBOARD_ENABLE_PROFILING": "1",
        # Ray looks for py-spy there, and it is installed beside this interpreter.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def wait_until_safe(
    ports: Ports, token_file: Path, pid: Callable[[], int | None], pause: Callable[[float], None], *, deadline_s: float
) -> bool:
    """Waits until the head answers, and proves that it answers nobody without the token and listens on loopback only.

    Returns False if the head is not up in time; raises StackError if it is up and open.
    """
    token = token_file.read_text().strip()
    dashboard = f"http://127.0.0.1:{ports.dashboard}/api/jobs/"
    agent = f"http://127.0.0.1:{ports.agent}/api/job_agent/jobs/"
    deadline = time.monotonic() + deadline_s
    with httpx.Client(timeout=_HTTP_TIMEOUT_S, trust_env=False) as http:
        while True:
            answers = [
                _status(http, "GET", dashboard, token),
                _status(http, "GET", dashboard),
                _status(http, "POST", agent),
            ]
            if None not in answers and answers[0] == httpx.codes.OK:
                break
            if time.monotonic() > deadline:
                return False
            pause(0.25)
    _refuse_open(dict(zip(("the dashboard", "the node agent"), answers[1:], strict=True)), _open_addresses(pid()))
    return True


def _refuse_open(answers: dict[str, int | None], open_addresses: list[str]) -> None:
    faults = [f"{who} answers {code} without a token" for who, code in answers.items() if code != 401]
    faults += [f"it listens on {address}" for address in open_addresses]
    if faults:
        raise StackError(
            f"the Ray head is open to others: {'; '.join(faults)}. Whoever reaches it runs code as you, so the stack "
            "does not start. Is this the pinned version of Ray (requirements.lock)?"
        )


def _status(http: httpx.Client, method: str, url: str, token: str | None = None) -> int | None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return http.request(method, url, headers=headers, json={} if method == "POST" else None).status_code
    except httpx.TransportError:
        return None


def _open_addresses(head: int | None) -> list[str]:
    """Addresses other than loopback on which the head or its descendants listen."""
    if head is None:
        return []
    process = psutil.Process(head)
    found: set[str] = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            listening = [c.laddr for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found |= {f"{address.ip}:{address.port}" for address in listening if not _is_loopback(address.ip)}
    return sorted(found)


def _is_loopback(ip: str) -> bool:
    return ip.removeprefix("::ffff:").startswith("127.") or ip == "::1"


def old_sessions(temp_folder: Path) -> list[Path]:
    """Folders of Ray sessions, without the newest few, whose logs may still explain something."""
    sessions = sorted(path for path in temp_folder.glob("session_*") if path.is_dir() and not path.is_symlink())
    return sessions[:-KEPT_SESSIONS]
