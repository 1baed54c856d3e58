"""The command line as a whole: what it covers, how it prints, ends, completes and remembers."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from fastapi import FastAPI
from typer.testing import CliRunner, Result

import api.cli  # noqa: F401  # all commands
from api.cli.commands import app as commands
from api.cli.plot import plot
from api.cli.queue_commands import maintenance_app
from api.client import NoConnection, SedrayClient
from api.client.connection import find_connection
from api.client.profiles import config_file
from api.schemas import MetricPointOut, MetricSeriesOut
from tests.api.commands_by_operation import COMMANDS, WITHOUT_COMMAND, WITHOUT_DATA

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Leaf = tuple[str, Any]


@pytest.fixture(autouse=True)
def no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine says where a service is."""
    for name in ("SEDRAY_URL", "SEDRAY_TOKEN", "SEDRAY_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SEDRAY_DATA", str(tmp_path / "no-stack"))


def run(*words: str) -> Result:
    return CliRunner().invoke(commands, list(words))


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every command that is not hidden, by its words."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            if not inner.hidden:
                yield from leaves(inner, (*words, name))
    else:
        yield " ".join(words), command


ALL = dict(leaves(typer.main.get_command(commands)))


def test_every_operation_has_a_command_or_a_reason(app: FastAPI) -> None:
    documented = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    assert documented == COMMANDS.keys() | WITHOUT_COMMAND.keys()
    assert not COMMANDS.keys() & WITHOUT_COMMAND.keys()
    assert set(COMMANDS.values()) <= ALL.keys()


def test_operations_are_named_once_and_as_their_functions(app: FastAPI) -> None:
    ids = [one["operationId"] for methods in app.openapi()["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids)) and "submit_experiment" in ids


def test_every_command_that_prints_data_prints_json_and_yaml() -> None:
    without = {name for name, command in ALL.items() if not any("--json" in one.opts for one in command.params)}
    assert without == WITHOUT_DATA.keys()
    as_yaml = {name for name, command in ALL.items() if any("--yaml" in one.opts for one in command.params)}
    assert as_yaml == ALL.keys() - without


def test_data_come_as_yaml_too() -> None:
    data = json.loads(run("data", "sets", "gsm8k", "--json").stdout)
    assert yaml.safe_load(run("data", "sets", "gsm8k", "--yaml").stdout) == data
    assert run("data", "sets", "--json", "--yaml").exit_code == 2


def test_the_nearest_name_is_offered() -> None:
    assert "Did you mean 'submit'" in run("sumbit").output
    assert "--dry-run" in run("submit", "x", "--dry-rn").output
    assert run("profile", "list").exit_code == 0, "list is understood as ls"


def test_profiles_are_kept_used_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("sr_1\n")
    assert run("profile", "add", "a", "--url", "http://a", "--token-file", str(tmp_path / "token")).exit_code == 0
    assert run("profile", "add", 'b "x"', "--url", "http://b", "--token-command", "echo sr_2").exit_code == 0
    assert config_file().stat().st_mode & 0o777 == 0o600

    assert (find_connection().url, find_connection().token) == ("http://a", "sr_1")
    assert run("profile", "use", 'b "x"').exit_code == 0
    assert (find_connection().url, find_connection().token) == ("http://b", "sr_2")
    assert find_connection(profile="a").url == "http://a"
    monkeypatch.setenv("SEDRAY_PROFILE", "a")
    assert find_connection().url == "http://a" and find_connection(url="http://c").url == "http://c"
    with SedrayClient.connect('b "x"') as client:
        assert client.projects is not None

    listed = json.loads(run("profile", "ls", "--json").stdout)
    assert listed["default"] == 'b "x"' and listed["profiles"]['b "x"']["token_command"] == "echo sr_2"
    assert run("profile", "rm", 'b "x"').exit_code == 0 and run("profile", "rm", "c").exit_code == 2
    with pytest.raises(NoConnection, match="known: a"):
        find_connection(profile='b "x"')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profiles = 3", "cannot read"),
        ("not toml", "cannot read"),
        ('[profiles.a]\nurl = "http://a"', "either token_file or token_command"),
        ('[profiles.a]\nurl = "http://a"\ntoken_command = "false"', "token command failed"),
    ],
)
def test_a_broken_configuration_says_what_is_wrong(text: str, said: str) -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text(f'default = "a"\n{text}')
    answer = run("whoami")
    assert answer.exit_code == 4 and said in " ".join(answer.stderr.split())


def series(*values: float) -> MetricSeriesOut:
    points = [MetricPointOut(step=step, ts=NOW, value=value) for step, value in enumerate(values)]
    facts = {"name": "sft/loss", "unit": "nat", "better": "down", "stage": "sft", "meaning": ""}
    return MetricSeriesOut.model_validate({**facts, "num_points": len(points), "kind": "points", "points": points})


@pytest.mark.parametrize("width", [30, 79, 200])
def test_a_plot_is_as_wide_as_the_terminal_and_no_wider(width: int) -> None:
    lines = plot(series(0.0, 1.0, math.nan, 4.0), width=width).plain.splitlines()
    assert lines[0] == "sft/loss [nat]"
    assert max(map(len, lines)) == width
    assert lines[1].lstrip().startswith("4│") and "⡇" not in lines[0]
    assert any(0x2800 < ord(sign) < 0x2900 for sign in lines[1])


def test_a_plot_says_when_there_is_nothing_to_draw() -> None:
    assert "no finite value" in plot(series(math.nan), width=80).plain
    assert "2│" in plot(series(2.0, 2.0), width=80).plain


@pytest.mark.parametrize("moment", ["2026-05-01T22:00", "2026-05-01T22:00:30", "2026-05-01 22:00", "2026-05-01"])
def test_a_moment_is_taken_as_people_write_it(moment: str) -> None:
    command = typer.main.get_command(maintenance_app)
    asked = command.commands["add"].make_context("add", [moment, "2026-05-02T01:00"])  # type: ignore[attr-defined]
    assert asked.params["starts_at"].date() == date(2026, 5, 1)
