import stat
from pathlib import Path

import pytest

from api.client.connection import find_connection, read_endpoint
from service.embedded.endpoint import Endpoint, announce, withdraw


def endpoint_in(folder: Path, *, pid: int = 1) -> Endpoint:
    token = folder / "api_token"
    token.write_text("sr_hush-hush")
    return Endpoint(
        url="http://127.0.0.1:8700",
        token_file=str(token),
        ray_dashboard_url="http://127.0.0.1:8265",
        ray_token_file=str(folder / "ray_token"),
        pid=pid,
    )


def test_the_command_line_finds_a_running_stack(tmp_path: Path) -> None:
    endpoint_in(tmp_path).write(tmp_path / "endpoint.json")
    connection = find_connection(data=tmp_path)
    assert (connection.url, connection.token) == ("http://127.0.0.1:8700", "sr_hush-hush")
    assert stat.S_IMODE((tmp_path / "endpoint.json").stat().st_mode) == 0o600


def test_the_token_is_not_printed_where_no_terminal_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce(endpoint_in(tmp_path))
    printed = capsys.readouterr().out
    assert "http://127.0.0.1:8700" in printed and "hush-hush" not in printed


def test_an_endpoint_is_withdrawn_by_its_own_stack_only(tmp_path: Path) -> None:
    file = tmp_path / "endpoint.json"
    endpoint_in(tmp_path, pid=1).write(file)
    withdraw(file, pid=2)
    assert read_endpoint(tmp_path) is not None
    withdraw(file, pid=1)
    withdraw(file, pid=1)
    assert read_endpoint(tmp_path) is None
