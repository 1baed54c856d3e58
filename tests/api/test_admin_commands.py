"""`sedray admin` and `sedray whoami` against a real server, from the first admin to the audit log."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.cli.commands import app
from service.settings import ApiSettings
from tests.api.test_server import free_port, server

Run = Callable[..., Result]


@pytest.fixture
def run(settings: ApiSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command line as the first admin; `token=` calls as somebody else."""
    port = free_port()
    monkeypatch.setenv("SEDRAY_DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("SEDRAY_URL", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("SEDRAY_DATA", raising=False)

    def run(*arguments: str, token: str | None = None, code: int = 0) -> Result:
        with monkeypatch.context() as context:
            context.setenv("SEDRAY_TOKEN", token or root)
            result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, (arguments, result.output, result.stderr)
        return result

    with server(settings, tmp_path / "log", port):
        root = make_root()
        yield run


def make_root() -> str:
    """What somebody does first on a fresh database."""
    command = [sys.executable, "-m", "api.cli", "admin", "init", "--name", "root"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def words(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())


def test_a_team_is_set_up_from_the_command_line(run: Run) -> None:
    assert "root (admin)" in run("whoami").output
    run("admin", "project", "create", "team", "--description", "diversity")
    ada = run("admin", "user", "create", "ada").stdout.strip()
    assert ada.startswith("sr_")
    run("admin", "member", "set", "team", "ada", "maintainer")
    assert json.loads(run("whoami", "--json", token=ada).stdout)["projects"] == {"team": "maintainer"}

    ci = run("admin", "service-account", "create", "team", "team-ci", token=ada).stdout.strip()
    assert json.loads(run("whoami", "--json", token=ci).stdout)["kind"] == "service"
    assert "team-ci" in run("admin", "project", "show", "team", token=ci).stdout
    refused = run("admin", "project", "archive", "team", token=ci, code=3)
    assert "only a maintainer may manage the project" in words(refused.stderr)

    created = json.loads(run("token", "create", "nightly", "--user", "team-ci", "--json", token=ada).stdout)
    assert created["secret"].startswith("sr_") and created["user"] == "team-ci"
    rotated = run("admin", "token", "rotate", created["id"], token=ada).stdout.strip()
    run("whoami", token=created["secret"], code=3)
    run("whoami", token=rotated)
    assert "nightly" in run("token", "ls", "--user", "team-ci", token=ada).stdout
    run("admin", "service-account", "disable", "team", "team-ci", token=ada)
    run("whoami", token=ci, code=3)

    run("admin", "user", "disable", "ada")
    assert "unknown, revoked or expired" in words(run("whoami", token=ada, code=3).stderr)
    told = json.loads(run("admin", "audit", "--project", "team", "--json").stdout)["items"]
    assert {"project.create", "member.set", "user.create", "token.issue", "token.rotate"} <= {e["action"] for e in told}
    assert all(entry["request_id"] for entry in told)


def test_webhooks_are_looked_after_from_the_command_line(run: Run) -> None:
    made = run(
        "admin", "webhook", "create", "default", "chat", "https://hooks.example.org/in", "--event", "experiment.failed"
    )
    assert made.stdout.strip().startswith("whsec_")
    (webhook,) = json.loads(run("admin", "webhook", "list", "default", "--json").stdout)["items"]
    run("admin", "webhook", "test", "default", webhook["id"])
    assert "pending" in run("admin", "webhook", "deliveries", "default", webhook["id"]).stdout
    assert run("admin", "webhook", "show", "default", webhook["id"], "--yaml").stdout.startswith("id: ")
    changed = run("admin", "webhook", "change", "default", webhook["id"], "--inactive", "--all-events", "--json")
    assert (json.loads(changed.stdout)["is_active"], json.loads(changed.stdout)["events"]) == (False, [])
    refused = run("admin", "webhook", "create", "default", "bad", "https://169.254.169.254/", code=3)
    assert "not a public address" in words(refused.stderr)
    unknown = run("admin", "webhook", "create", "default", "bad", "https://a.org", "--event", "experiment.bad", code=3)
    assert "unknown event" in words(unknown.stderr)
    run("admin", "webhook", "remove", "default", webhook["id"])
