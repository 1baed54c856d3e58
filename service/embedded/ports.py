"""Ports of a local stack: one block of neighbours below the kernel's own range for outgoing connections."""

import json
import random
import socket
from dataclasses import dataclass
from pathlib import Path

from service.embedded.errors import StackError

NUM_WORKER_PORTS = 160
_LOWEST, _HIGHEST = 11_000, 32_000
_OFFSET_OF_WORKERS = 16
_TRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The API's port, then nine of Ray's, then a range for Ray's workers; all follow from the first."""

    base: int

    @property
    def api(self) -> int:
        """Page and HTTP API."""
        return self.base

    @property
    def gcs(self) -> int:
        """Ray's global control store."""
        return self.base + 1

    @property
    def dashboard(self) -> int:
        """Ray's dashboard and jobs API."""
        return self.base + 2

    @property
    def agent(self) -> int:
        """The node agent's HTTP server, which takes jobs too."""
        return self.base + 3

    @property
    def agent_grpc(self) -> int:
        """The node agent's gRPC server."""
        return self.base + 4

    @property
    def runtime_env_agent(self) -> int:
        """The agent that prepares runtime environments."""
        return self.base + 5

    @property
    def node_manager(self) -> int:
        """The raylet."""
        return self.base + 6

    @property
    def object_manager(self) -> int:
        """The object store."""
        return self.base + 7

    @property
    def ray_client(self) -> int:
        """Ray's client server, which `ray start` cannot leave out."""
        return self.base + 8

    @property
    def metrics_export(self) -> int:
        """Named to keep Ray off other ports; metrics are switched off."""
        return self.base + 9

    @property
    def workers(self) -> tuple[int, int]:
        """First and last port of Ray's workers."""
        first = self.base + _OFFSET_OF_WORKERS
        return first, first + NUM_WORKER_PORTS - 1

    @property
    def all(self) -> range:
        """Every port of the block."""
        return range(self.base, self.workers[1] + 1)


def choose_ports(file: Path, host: str) -> Ports:
    """The block of the last run if it is still free, else a free one at random; remembered in `file`."""
    remembered = _remembered(file)
    if remembered is not None and _all_free(remembered, host):
        return remembered
    for _ in range(_TRIES):
        ports = Ports(base=random.randrange(_LOWEST, _HIGHEST - NUM_WORKER_PORTS - _OFFSET_OF_WORKERS))
        if _all_free(ports, host):
            file.write_text(json.dumps({"base": ports.base}))
            return ports
    raise StackError(f"no {len(Ports(base=0).all)} free ports in a row between {_LOWEST} and {_HIGHEST}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. The API's own host may be a name or any local address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def _all_free(ports: Ports, host: str) -> bool:
    return is_free(host, ports.api) and all(is_free("127.0.0.1", port) for port in ports.all)


def _remembered(file: Path) -> Ports | None:
    try:
        return Ports(base=int(json.loads(file.read_text())["base"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
