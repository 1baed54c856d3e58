"""The page of the command line."""

from collections.abc import Iterator
from typing import Any

import typer

import api.cli  # noqa: F401  # all commands
from api.cli.calling import ExitCode
from api.cli.commands import app
from api.cli.panels import ORDER


def cli_reference() -> str:
    """Every command with its arguments and options, in the groups of `sedray --help`."""
    root: Any = typer.main.get_command(app)
    lines = ["# `sedray`", "", root.help, "", *_options(root), "Exit codes: " + _exit_codes(), ""]
    for panel in ORDER:
        lines += [f"## {panel}", ""]
        for name, command in root.commands.items():
            if command.rich_help_panel == panel and not command.hidden:
                lines += _described(command, f"sedray {name}")
    return "\n".join(lines).rstrip() + "\n"


def _described(command: Any, words: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            if not inner.hidden:
                yield from _described(inner, f"{words} {name}")
        return
    arguments = " ".join(_argument(one) for one in command.params if one.param_type_name == "argument")
    yield from (f"### `{words}{f' {arguments}' if arguments else ''}`", "", command.help or "", "")
    yield from _options(command)


def _options(command: Any) -> Iterator[str]:
    rows = [
        f"| `{_names(one)}` | {_cell(one.help)}{_default(one)} |"
        for one in command.params
        if not getattr(one, "hidden", False) and "--help" not in one.opts
    ]
    if rows:
        yield from ("| | |", "|---|---|", *rows, "")


def _argument(one: Any) -> str:
    name = one.metavar or one.name.upper() + ("..." if one.nargs == -1 else "")
    return name if one.required else f"[{name}]"


def _names(one: Any) -> str:
    if one.param_type_name == "argument":
        return _argument(one)
    names = ", ".join([*one.opts, *one.secondary_opts])
    return names if one.is_flag else f"{names} {_kind(one.type)}".replace("|", "\\|")


def _kind(kind: Any) -> str:
    choices = getattr(kind, "choices", None)
    return "|".join(str(getattr(one, "value", one)) for one in choices) if choices else kind.name.split()[0].upper()


def _default(one: Any) -> str:
    known = one.default
    flag = getattr(one, "is_flag", False)
    return "" if flag or known in (None, "", ()) or callable(known) else f" Default: {known}."


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _exit_codes() -> str:
    return ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode) + "."
