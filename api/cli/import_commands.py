"""`sedray import`: configurations of TRL and verl become a specification. Needs no service."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.calling import ExitCode, console, errors
from api.cli.forms import AsJson, Commands, print_json
from api.cli.spec_files import UnreadableSpec, load_yaml, parse_override
from api.cli.tables import print_problem
from service.contract.imports import ConfigImport, ForeignConfig, ForeignSystem, ImportedSetting, ImportRequest, Outcome
from service.foreign_configs import UnreadableConfig, read_configs
from service.foreign_configs.flattening import flattened
from service.foreign_configs.result import stage_of

import_app = Commands(help="Read configurations of other systems into a specification.")

_SUFFIXES = (".yaml", ".yml", ".json")
_TITLES: dict[Outcome, str] = {
    "no_equivalent": "No equivalent",
    "unknown": "Unknown",
    "assumed": "Assumed, because no configuration says it",
    "taken": "Taken",
    "default": "Left out in the file: the other system's default was taken",
    "not_needed": "Not needed",
}
_SHOWN_ALWAYS: tuple[Outcome, ...] = ("no_equivalent", "unknown", "assumed", "taken")

Configs = Annotated[
    list[Path],
    typer.Argument(help="YAML or JSON files, or a folder with them; one for each stage.", show_default=False),
]
RlRows = Annotated[int | None, typer.Option("--rl-rows", min=1, help="Rows of the RL data: turns epochs into steps.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="Change a field: rl.num_steps=200 (repeatable).")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the specification here.", show_default=False)
]
Everything = Annotated[bool, typer.Option("--all", help="Also list defaults, and what is not needed.")]


@import_app.command("trl")
def import_trl(
    paths: Configs,
    num_devices: Annotated[int | None, typer.Option(min=1, help="Processes that accelerate starts.")] = None,
    rl_rows: RlRows = None,
    overrides: Changes = None,
    output: Output = None,
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Read what `trl sft --config` and `trl grpo --config` read, or the JSON of an SFTConfig or GRPOConfig."""
    request = _request("trl", paths, num_devices, rl_rows, overrides)
    _show(request, output, everything=everything, as_json=as_json)


@import_app.command("verl")
def import_verl(
    paths: Configs,
    rl_rows: RlRows = None,
    overrides: Changes = None,
    output: Output = None,
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Read verl's Hydra configuration: the whole one, one with what differs, or `.hydra/overrides.yaml`."""
    request = _request("verl", paths, None, rl_rows, overrides)
    _show(request, output, everything=everything, as_json=as_json)


def _request(
    system: ForeignSystem,
    paths: Sequence[Path],
    num_devices: int | None,
    rl_rows: int | None,
    changes: list[str] | None,
) -> ImportRequest:
    try:
        return ImportRequest(
            system=system,
            configs=[config for path in paths for config in _configs(system, path)],
            num_devices=num_devices,
            num_rl_rows=rl_rows,
            overrides=dict(map(parse_override, changes or [])),
        )
    except ValidationError as error:
        num_found = sum(len(_configs(system, path)) for path in paths)
        problem = f"{num_found} configurations of {system} were found; give one, or one for each of SFT and RL"
        raise typer.BadParameter(problem) from error
    except UnreadableSpec as error:
        print_problem(errors, "the configuration cannot be read", str(error), [])
        raise typer.Exit(ExitCode.USAGE) from error


def _configs(system: ForeignSystem, path: Path) -> list[ForeignConfig]:
    """Of a folder, those files that are configurations; the others are told of."""
    if not path.is_dir():
        return [_config(path)]
    found = []
    for file in sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES):
        try:
            config = _config(file)
        except UnreadableSpec:
            errors.print(f"passed over, no object of options: {file}", style="dim", markup=False)
            continue
        if stage_of(system, flattened(config.settings)) is None:
            errors.print(f"passed over, no configuration of {system}: {file}", style="dim", markup=False)
            continue
        found.append(config)
    return found


def _config(file: Path) -> ForeignConfig:
    try:
        return ForeignConfig(name=file.name, settings=load_yaml(file))
    except ValidationError as error:
        raise UnreadableSpec(f"{file} must hold one object of options, or a list of overrides") from error


def _show(request: ImportRequest, output: Path | None, *, everything: bool, as_json: bool) -> None:
    try:
        found = read_configs(request)
    except UnreadableConfig as error:
        print_problem(errors, "the configuration cannot be read", str(error), [])
        raise typer.Exit(ExitCode.USAGE) from error
    if output is not None:
        output.write_text(found.spec_yaml)
    if as_json:
        print_json(found)
    else:
        # The specification alone on standard output, so that it can be piped.
        if output is None:
            sys.stdout.write(found.spec_yaml)
        _tell(errors if output is None else console, found, everything=everything)
    if not found.is_valid:
        raise typer.Exit(ExitCode.FAILED)


def _tell(where: Console, found: ConfigImport, *, everything: bool) -> None:
    for outcome, title in _TITLES.items():
        entries = [entry for entry in found.settings if entry.outcome == outcome]
        if not entries:
            continue
        if everything or outcome in _SHOWN_ALWAYS:
            where.print(Text(f"\n{title} ({len(entries)})", style="bold"), _table(entries))
        else:
            where.print(Text(f"\n{title}: {len(entries)}, listed with --all", style="dim"))
    if found.left_at_default:
        where.print(Text(f"\nFields at sedray's own default: {len(found.left_at_default)}", style="dim"))
        if everything:
            where.print(*(f"  {one.field}: {one.value!r}" for one in found.left_at_default), sep="\n", markup=False)
    if found.is_valid:
        where.print(Text("\nvalid; look at the rest with: sedray submit FILE --dry-run", style="green"))
    else:
        where.print(Text("\nnot valid yet", style="bold red"), _problems(found))


def _table(entries: Iterable[ImportedSetting]) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for entry in entries:
        became = f"{entry.field}: {entry.becomes}" if entry.field else ""
        words = Group(*(Text(part) for part in (entry.reason,) if part), *_remedy(entry))
        table.add_row(Text(f"{entry.key}: {entry.value}"), Text(became, style="cyan"), words)
    return table


def _remedy(entry: ImportedSetting) -> list[Text]:
    return [Text(f"→ {entry.remedy}", style="yellow")] if entry.remedy else []


def _problems(found: ConfigImport) -> RenderableType:
    hints = ((one, f" ({one.hint})" if one.hint else "") for one in found.problems)
    return Group(*(Text(f"  {one.field}: {one.problem}{hint}") for one, hint in hints))
