"""`sedray profile`: services by name, so that nobody types addresses."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from api.cli.calling import ExitCode, console, errors
from api.cli.completion import profile_names
from api.cli.forms import AsJson, Commands, print_data
from api.cli.tables import print_problem
from api.client import NoConnection
from api.client.profiles import Profile, Profiles, config_file, read_profiles, write_profiles

profile_app = Commands(help="Services by name, in ~/.config/sedray/config.toml.")
Name = Annotated[str, typer.Argument(help="The profile's name.", show_default=False, autocompletion=profile_names)]


@profile_app.command("add")
def add(
    name: Name,
    url: Annotated[str, typer.Option(help="Address of the service.", show_default=False)],
    token_file: Annotated[Path | None, typer.Option(help="File with your API token.", show_default=False)] = None,
    token_command: Annotated[
        str | None, typer.Option(help="Command that prints your API token.", show_default=False)
    ] = None,
    use: Annotated[bool, typer.Option("--use", help="Call this service from now on.")] = False,
) -> None:
    """Add a service, or put it in the place of the one of that name. The first one is used from then on."""
    if (token_file is None) == (token_command is None):
        raise typer.BadParameter("say where the token is: --token-file or --token-command")
    place = token_file.expanduser().absolute() if token_file else None
    try:
        profile = Profile(url=url, token_file=place, token_command=token_command)
    except ValidationError as error:
        raise typer.BadParameter(f"--url {url} must begin with http:// or https://") from error
    changed = _read().with_profile(name, profile)
    write_profiles(changed.using(name) if use else changed)
    console.print(f"{name} is in {config_file()}", markup=False, soft_wrap=True)


@profile_app.command("ls")
def show_all(as_json: AsJson = False) -> None:
    """List the profiles; the one that is used without --profile is marked."""
    profiles = _read()
    if as_json:
        facts = {name: one.model_dump(mode="json", exclude_none=True) for name, one in profiles.by_name.items()}
        print_data({"default": profiles.default, "profiles": facts})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("", "NAME", "ADDRESS", "TOKEN"):
        table.add_column(title, overflow="fold")
    for name, one in sorted(profiles.by_name.items()):
        token = str(one.token_file) if one.token_file else f"$ {one.token_command}"
        table.add_row("*" if name == profiles.default else "", Text(name), Text(one.url), Text(token))
    console.print(table if profiles.by_name else Text(f"no profile in {config_file()}", style="dim"))


@profile_app.command("use")
def use_profile(name: Name) -> None:
    """Call this service from now on, unless --profile, the environment or a local stack says otherwise."""
    _change(lambda profiles: profiles.using(name))
    console.print(f"{name} is used from now on", markup=False)


@profile_app.command("rm")
def remove(name: Name) -> None:
    """Remove a profile; its token stays where it is."""
    _change(lambda profiles: profiles.without(name))
    console.print(f"{name} is removed", markup=False)


def _read() -> Profiles:
    try:
        return read_profiles()
    except NoConnection as error:
        raise _refused(error) from error


def _change(change: Callable[[Profiles], Profiles]) -> None:
    try:
        write_profiles(change(read_profiles()))
    except NoConnection as error:
        raise _refused(error) from error


def _refused(error: NoConnection) -> typer.Exit:
    print_problem(errors, "the profiles", str(error), [])
    return typer.Exit(ExitCode.USAGE)
