"""Every command in the documentation is one that the program would take."""

import re
from importlib.util import find_spec
from typing import Any

import pytest
import typer

import api.cli  # noqa: F401  # all commands
from api.cli.commands import app
from tests.docs.blocks import REPOSITORY, Shown, commands, words_of

ROOT: Any = typer.main.get_command(app)
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*")
TARGETS = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.M))
SHOWN = [one for one in dict.fromkeys(commands()) if "…" not in one.text]


def shown(program: str) -> list[Shown]:
    return [one for one in SHOWN if one.text.startswith(f"{program} ")]


def faults_of(words: list[str]) -> list[str]:
    """What the command line would refuse, without running anything."""
    command, rest = ROOT, words
    while True:
        context = command.context_class(command, info_name=command.name)
        try:
            given, rest, _ = command.make_parser(context).parse_args(list(rest))
        except Exception as error:  # typer brings its own copy of click, whose errors have no public name
            return [str(error)]
        faults = _faults(command, given)
        if faults or not hasattr(command, "commands"):
            return faults + ([f"too many words: {' '.join(rest)}"] if rest else [])
        if not rest and any(given.get(name) for name in ("help", "install_completion")):
            return []
        if not rest or rest[0] not in command.commands:
            return [f"no command {' '.join(rest) or 'given'}"]
        command, rest = command.commands[rest[0]], rest[1:]


def _faults(command: Any, given: dict[str, Any]) -> list[str]:
    if given.get("help"):
        return []
    faults = []
    for one in command.params:
        value = given.get(one.name)
        missing = value is None or value == () or "UNSET" in repr(value)
        if one.required and missing:
            faults.append(f"{one.name} is missing")
        choices = getattr(one.type, "choices", None)
        if choices and not missing:
            known = {str(getattr(choice, "value", choice)) for choice in choices}
            words = {
                word for each in (value if isinstance(value, list | tuple) else [value]) for word in each.split("|")
            }
            faults += [f"{one.name} is no {word}" for word in words - known if not PLACEHOLDER.fullmatch(word)]
    return faults


def names_a_command(words: list[str]) -> bool:
    """Whether it is the name of a command or group and nothing else."""
    command = ROOT
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    return command is not None


def readings(command: str) -> list[list[str]]:
    """Behind a bar a command may be one of the group or of the whole: `study ls | show ID`, `ls | why ID`."""
    words = command.removeprefix("sedray ")
    if "|" not in words.split(" ")[0]:
        return [words_of(words)]
    group, rest = words.split("|", 1)
    return [words_of(f"{group} {rest}"), words_of(rest)]


@pytest.mark.parametrize("one", shown("sedray"), ids=str)
def test_the_command_line_takes_it(one: Shown) -> None:
    words = readings(one.text)
    found = [faults_of(reading) for reading in words]
    assert [] in found or (not one.is_whole and names_a_command(words[0])), found


@pytest.mark.parametrize("one", shown("make"), ids=str)
def test_the_makefile_has_it(one: Shown) -> None:
    words = [word for word in words_of(one.text)[1:] if "=" not in word]
    assert words and set(words) <= TARGETS


@pytest.mark.parametrize("one", [*shown("python"), *shown("pytest")], ids=str)
def test_the_module_or_file_is_there(one: Shown) -> None:
    _, *words = words_of(one.text)
    if words[0] == "-m":
        spec = find_spec(words[1])
        assert spec is not None
        assert spec.submodule_search_locations is None or find_spec(f"{words[1]}.__main__") is not None
    else:
        assert (REPOSITORY / next(word for word in words if not word.startswith("-"))).exists()


def test_a_wrong_command_is_found() -> None:
    assert faults_of(["lss"]) and faults_of(["ls", "--nope"]) and faults_of(["show"])
    assert faults_of(["show", "ID", "TWO"]) and faults_of(["study", "report", "ID", "--format", "docx"])
    assert faults_of(["show", "ID"]) == [] and faults_of(["--profile", "team", "whoami"]) == []
    assert len(shown("sedray")) > 100
