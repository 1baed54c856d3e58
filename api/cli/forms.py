"""In what form a command prints data: for people, as JSON, or as YAML. Groups and commands of the command line."""

import json
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup, TyperOption

from api.cli.panels import ORDER

AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
"""A command that takes it takes `--yaml` too; then it is true as well, and `print_json` prints YAML."""

_is_yaml: ContextVar[bool] = ContextVar("is_yaml", default=False)


class PrintingCommand(TyperCommand):
    """A command with `--yaml` beside `--json`."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **settings: Any) -> None:
        params = list(params or [])
        places = [place for place, param in enumerate(params) if "--json" in param.opts]
        self._json_name = params[places[0]].name if places else None
        if places:
            as_yaml = TyperOption(
                param_decls=["--yaml", "as_yaml"], type=bool, is_flag=True, default=False, help="The same as YAML."
            )
            params.insert(places[0] + 1, as_yaml)
        super().__init__(name, params=params, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command with the form that was asked for."""
        if self._json_name is None:
            return super().invoke(ctx)
        as_yaml = bool(ctx.params.pop("as_yaml"))
        if as_yaml and ctx.params[self._json_name]:
            raise typer.BadParameter("--json and --yaml exclude each other")
        ctx.params[self._json_name] = as_yaml or ctx.params[self._json_name]
        token = _is_yaml.set(as_yaml)
        try:
            return super().invoke(ctx)
        finally:
            _is_yaml.reset(token)


class NamingGroup(TyperGroup):
    """A group that understands `list` as `ls`, and lists its commands by panel."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the panels; within one, as they were added."""
        return sorted(super().list_commands(ctx), key=self._panel_place)

    def _panel_place(self, name: str) -> int:
        panel = getattr(self.commands[name], "rich_help_panel", None)
        return ORDER.index(panel) if panel in ORDER else len(ORDER)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name."""
        known = super().get_command(ctx, cmd_name)
        return super().get_command(ctx, "ls") if known is None and cmd_name == "list" else known


class Commands(typer.Typer):
    """A group of commands, or the whole command line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"cls": NamingGroup, "no_args_is_help": True, **settings})

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """As of typer, for a PrintingCommand."""
        return super().command(name, **{"cls": PrintingCommand, **settings})


def print_json(model: BaseModel) -> None:
    """The service's own answer; as YAML with `--yaml`."""
    print_data(plain(model))


def plain(model: BaseModel, *, exclude_unset: bool = False) -> Any:
    """As JSON has it: a NaN is a string, for which plain numbers have no sign."""
    return json.loads(model.model_dump_json(exclude_unset=exclude_unset))


def print_data(data: Any) -> None:
    """The same of what is no model."""
    if _is_yaml.get():
        sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))
    else:
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def print_entry(data: Any) -> None:
    """One of many: a line of JSON, or a document of YAML."""
    if _is_yaml.get():
        sys.stdout.write("---\n")
        print_data(data)
    else:
        sys.stdout.write(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()
