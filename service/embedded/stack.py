"""The local stack: what is started, in which order, with which settings, and how it is taken down again.

PostgreSQL and Ray side by side ─> schema, user, token ─> API, scheduler ─> ready      (stopped in reverse)
"""

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from service.embedded import postgres, process_tree, ray_head
from service.embedded.data_folder import DataFolder, take_lock
from service.embedded.endpoint import Endpoint, announce
from service.embedded.errors import StackError
from service.embedded.guard import StopRequest, StopRequested
from service.embedded.ports import Ports, choose_ports, is_free
from service.embedded.ray_head import RayAddress
from service.embedded.supervisor import Service, Supervised, Supervisor, inherited_environment, run_once
from service.log_format import JsonLines

logger = logging.getLogger(__name__)
STOP_ORDER = ("scheduler", "api", "ray", "postgres")
MARKER = "SEDRAY_STACK"
"""Environment variable of all our processes: the identity of the data folder."""
START_DEADLINE_S = 90.0
"""For each of PostgreSQL, schema, Ray, and API with scheduler."""
_GIVE_UP_AFTER_CRASHES = 3
_TICK_S = 0.2
_TAIL_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asks for."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    """0: that of the last run, or any free one."""
    num_cpus: int | None = None
    """CPUs that the embedded Ray hands out; None: the machine's, at least 2."""
    database_url: str | None = field(default=None, repr=False)
    """A PostgreSQL server to use instead of the embedded one."""
    ray: RayAddress | None = None
    """A Ray cluster to use instead of the embedded one."""


def run_stack(options: Options, stop: StopRequest, *, front: int) -> int:
    """Brings the stack up, looks after it until somebody wants it to stop, takes it down; returns the exit code.

    `front` is the process id that users know.
    """
    folder = DataFolder(root=options.data.resolve())
    folder.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with take_lock(folder, stop.check, front=front):
            folder.create()
            _log_to(folder.log("stack"))
            _clean_up_after_a_kill(folder)
            _Stack(options, folder, stop, front).run()
    except StopRequested:
        return 0
    except StackError as error:
        logger.info("stack failed", extra={"reason": error.message})
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


class _Stack:
    """One run of the stack on a locked folder."""

    def __init__(self, options: Options, folder: DataFolder, stop: StopRequest, front: int) -> None:
        self._options = options
        self._folder = folder
        self._stop = stop
        self._front = front
        self._marker = (MARKER, folder.identity)
        self._ports = choose_ports(folder.ports, options.host)
        self._api_port = _api_port(options, self._ports)
        self._supervisor = Supervisor()
        self._services: list[Supervised] = []

    def run(self) -> None:
        """Raises StopRequested at the regular end, StackError if the stack does not come up."""
        try:
            endpoint = self._start()
            endpoint.write(self._folder.endpoint)
            announce(endpoint)
            logger.info("stack is ready", extra={"url": self._url})
            while True:
                self._supervisor.tick()
                self._stop.check(_TICK_S)
        finally:
            self._folder.endpoint.unlink(missing_ok=True)
            self._supervisor.stop(STOP_ORDER, lambda: self._stop.urgent)

    def _start(self) -> Endpoint:
        head = None if self._options.ray else self._start_ray()  # the slowest: the others start meanwhile
        database_url = self._options.database_url or self._start_postgres()
        self._prepare_database(database_url)
        ray = self._options.ray or RayAddress(
            dashboard_url=f"http://127.0.0.1:{self._ports.dashboard}", token_file=self._folder.ray_token
        )
        if not _is_local(ray.dashboard_url) and _is_local(self._url):
            sys.stdout.write(
                f"note: drivers on that Ray cluster call the API at {self._url}, which only this machine reaches; "
                "give an address that they reach with --host, and a data folder that they share with --data\n"
            )
        api = self._start_control_plane(database_url, ray)
        if head is not None:
            self._wait_for_ray(head)
        if not _wait_until_served(self._url, self._pause, deadline_s=START_DEADLINE_S):
            raise _not_up(api.service)
        return Endpoint(
            url=self._url,
            token_file=str(self._folder.api_token),
            ray_dashboard_url=ray.dashboard_url,
            ray_token_file=str(ray.token_file),
            pid=self._front,
        )

    @property
    def _url(self) -> str:
        return f"http://{_reachable(self._options.host)}:{self._api_port}"

    def _add(self, service: Service) -> Supervised:
        supervised = self._supervisor.add(service)
        self._services.append(supervised)
        return supervised

    def _start_postgres(self) -> str:
        prepared = postgres.prepare_postgres(self._folder)
        server = self._add(prepared.service(self._folder.log("postgres"), self._marker))
        if not prepared.wait_until_ready(self._pause, deadline_s=START_DEADLINE_S):
            raise _not_up(server.service)
        return prepared.url

    def _prepare_database(self, database_url: str) -> None:
        if self._options.database_url:
            sys.stdout.write("bringing the given database to the newest schema, if it is older …\n")
        once = Service(
            name="database",
            command=(sys.executable, "-m", "service.embedded.prepare_database", str(self._folder.api_token)),
            environment={**self._environment(), "SEDRAY_DATABASE_URL": database_url},
            log=self._folder.log("database"),
        )
        if run_once(once, self._pause, deadline_s=START_DEADLINE_S) != 0:
            raise _not_up(once)
        logger.info("database is ready")

    def _start_ray(self) -> Supervised:
        temp_folder = _ray_folder(self._folder)
        for session in ray_head.old_sessions(temp_folder):
            shutil.rmtree(session, ignore_errors=True)
        return self._add(
            ray_head.head_service(
                ports=self._ports,
                num_cpus=self._options.num_cpus or max(2, len(os.sched_getaffinity(0))),
                temp_folder=temp_folder,
                token_file=self._folder.ray_token,
                log=self._folder.log("ray"),
                marker=self._marker,
            )
        )

    def _wait_for_ray(self, head: Supervised) -> None:
        if not ray_head.wait_until_safe(
            self._ports, self._folder.ray_token, lambda: head.pid, self._pause, deadline_s=START_DEADLINE_S
        ):
            raise _not_up(head.service)
        logger.info("ray is up and closed to others", extra={"dashboard": self._ports.dashboard})

    def _start_control_plane(self, database_url: str, ray: RayAddress) -> Supervised:
        shared = {
            **self._environment(),
            "SEDRAY_DATABASE_URL": database_url,
            "SEDRAY_SECRET_KEY_FILE": str(self._folder.secret_key),
            "SEDRAY_OUTPUT_ROOT": str(self._folder.outputs),
            "SEDRAY_PUBLIC_URL": self._url,
        }
        api = {
            "SEDRAY_HOST": self._options.host,
            "SEDRAY_PORT": str(self._api_port),
            "SEDRAY_RAY_DASHBOARD_PUBLIC_URL": ray.dashboard_url,
        }
        scheduler = {
            "SEDRAY_RAY_DASHBOARD_URL": ray.dashboard_url,
            "SEDRAY_RAY_TOKEN_FILE": str(ray.token_file),
            "SEDRAY_SERVICE_URL": self._url,
            "SEDRAY_WORKER_DIR": str(self._folder.work),
            "SEDRAY_WORKER_PYTHON": os.environ.get("SEDRAY_WORKER_PYTHON", sys.executable),
            **({} if self._options.ray else {"SEDRAY_RAY_AGENT_PORT": str(self._ports.agent)}),
        }
        server = self._add(self._python("api", "api.server", {**shared, **api}))
        self._add(self._python("scheduler", "service.scheduler.main", {**shared, **scheduler}))
        return server

    def _python(self, name: str, module: str, environment: dict[str, str]) -> Service:
        command = (sys.executable, "-m", module)
        return Service(name=name, command=command, environment=environment, log=self._folder.log(name))

    def _environment(self) -> dict[str, str]:
        """Finer settings (`SEDRAY_TICK_S` …) reach API and scheduler; a person's token does not."""
        inherited = inherited_environment("SEDRAY_TOKEN", "SEDRAY_URL", "SEDRAY_DATA")
        return {**inherited, self._marker[0]: self._marker[1], "PYTHONUNBUFFERED": "1"}

    def _pause(self, seconds: float) -> None:
        """Waiting during the start: raises StopRequested, and StackError if a service does nothing but crash."""
        self._supervisor.tick()
        for supervised in self._services:
            if supervised.num_crashes >= _GIVE_UP_AFTER_CRASHES:
                raise _not_up(supervised.service)
        self._stop.check(seconds)


def _clean_up_after_a_kill(folder: DataFolder) -> None:
    """The lock is ours, so whatever still runs for this folder belongs to nobody."""
    folder.endpoint.unlink(missing_ok=True)
    marker = (MARKER, folder.identity)
    fragment = f"{_ray_folder(folder)}/session_"

    def find() -> list[psutil.Process]:
        return process_tree.leftovers(marker, fragment)

    postgres.end_old_server(folder.postgres)  # first, and gently: it is the only one with something to lose
    if left := find():
        logger.warning("ending processes that a killed stack left", extra={"pids": [one.pid for one in left]})
        process_tree.end(find, grace_s=5.0)


def _ray_folder(folder: DataFolder) -> Path:
    """Ray opens the folder that it is given to everybody, so it gets one inside of ours."""
    return folder.short_folder() / "r"


def _wait_until_served(url: str, pause: Callable[[float], None], *, deadline_s: float) -> bool:
    """Until the API is ready and has seen the scheduler."""
    deadline = time.monotonic() + deadline_s
    with httpx.Client(timeout=5.0, trust_env=False) as http:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                answer = http.get(f"{url}/readyz")
                if answer.status_code == httpx.codes.OK and answer.json()["scheduler"] == "ok":
                    return True
            pause(_TICK_S)
    return False


def _api_port(options: Options, ports: Ports) -> int:
    if options.port and not is_free(options.host, options.port):
        raise StackError(
            f"port {options.port} of {options.host} is taken or not ours to take; "
            "give another with --port, or 0 for a free one"
        )
    return options.port or ports.api


def _reachable(host: str) -> str:
    """The address to call where a server listens on `host`."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _not_up(service: Service) -> StackError:
    lines = service.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return StackError("\n".join([f"{service.name} did not come up; the end of {service.log}:", *lines]))


def _log_to(file: Path) -> None:
    """Everything goes to the file, warnings to the terminal too."""
    for terminal in logging.getLogger().handlers:
        terminal.setLevel(logging.WARNING)
    handler = logging.FileHandler(file)
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)
    logging.getLogger("service.embedded").setLevel(logging.INFO)
