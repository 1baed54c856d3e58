"""The self-test against stand-in servers; the real head is started in test_stack."""

import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from service.embedded.errors import StackError
from service.embedded.ports import Ports, choose_ports
from service.embedded.ray_head import KEPT_SESSIONS, head_service, old_sessions, wait_until_safe

TOKEN = "hush-hush"


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    return choose_ports(tmp_path / "ports.json", "127.0.0.1")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


@contextmanager
def server(port: int, *, closed: bool, host: str = "127.0.0.1") -> Iterator[None]:
    """Answers 200, and 401 without the token if it is `closed`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = not closed or self.headers["Authorization"] == f"Bearer {TOKEN}"
            self.send_response(200 if allowed else 401)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((host, port), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            running.shutdown()
            thread.join()


def never_pause(seconds: float) -> None:
    raise AssertionError("both answer at once")


def check(ports: Ports, token_file: Path, *, pid: int | None = None) -> bool:
    return wait_until_safe(ports, token_file, lambda: pid, never_pause, deadline_s=5)


def test_a_closed_head_is_accepted(ports: Ports, token_file: Path) -> None:
    with server(ports.dashboard, closed=True), server(ports.agent, closed=True):
        assert check(ports, token_file, pid=os.getpid())


@pytest.mark.parametrize(
    ("dashboard", "agent", "who"), [(False, True, "the dashboard"), (True, False, "the node agent")]
)
def test_a_head_that_answers_without_a_token_is_refused(
    ports: Ports, token_file: Path, dashboard: bool, agent: bool, who: str
) -> None:
    with (
        server(ports.dashboard, closed=dashboard),
        server(ports.agent, closed=agent),
        pytest.raises(StackError, match=f"{who} answers 200 without a token"),
    ):
        check(ports, token_file)


def test_a_head_that_listens_on_every_interface_is_refused(ports: Ports, token_file: Path) -> None:
    with ExitStack() as servers:
        servers.enter_context(server(ports.dashboard, closed=True, host="0.0.0.0"))
        servers.enter_context(server(ports.agent, closed=True))
        with pytest.raises(StackError, match=rf"listens on 0\.0\.0\.0:{ports.dashboard}"):
            check(ports, token_file, pid=os.getpid())


def test_a_silent_head_is_not_up(ports: Ports, token_file: Path) -> None:
    assert not wait_until_safe(ports, token_file, lambda: None, lambda seconds: None, deadline_s=0.1)


def test_drivers_inherit_no_secret_of_the_service(
    ports: Ports, token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEDRAY_DATABASE_URL", "postgresql+psycopg://secret")
    service = head_service(
        ports=ports,
        num_cpus=2,
        temp_folder=tmp_path,
        token_file=token_file,
        log=tmp_path / "ray.log",
        marker=("SEDRAY_STACK", "x"),
    )
    assert {name for name in service.environment if name.startswith("SEDRAY_")} == {"SEDRAY_STACK"}
    assert TOKEN not in " ".join([*service.command, *service.environment.values()])
    assert service.environment["RAY_AUTH_MODE"] == "token"


def test_the_newest_ray_sessions_are_kept(tmp_path: Path) -> None:
    for day in range(1, KEPT_SESSIONS + 3):
        (tmp_path / f"session_2026-01-0{day}_00-00-00_000000_1").mkdir()
    (tmp_path / "session_latest").symlink_to(tmp_path / "session_2026-01-05_00-00-00_000000_1")
    assert [path.name[:18] for path in old_sessions(tmp_path)] == ["session_2026-01-01", "session_2026-01-02"]
