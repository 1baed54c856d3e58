"""What every command shares: the client, the consoles, exit codes, and how an answer is printed."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.text import Text

from api.cli.forms import AsJson, print_json
from api.cli.spec_files import UnreadableSpec
from api.cli.tables import print_problem
from api.client import NoConnection, ProblemReply, SedrayClient, ServiceUnreachable, UnknownAnswer
from api.client.connection import Connection, find_connection

__all__ = [
    "AsJson",
    "ExitCode",
    "answer",
    "client_of",
    "connection_of",
    "console",
    "errors",
    "print_json",
    "print_secret",
]

console = Console()
errors = Console(stderr=True)


class ExitCode(IntEnum):
    """How a command ends, for scripts; `docs/cli.md` has the table."""

    DONE = 0
    FAILED = 1
    """What was followed did not succeed, or a check found a fault."""
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


def connection_of(context: typer.Context) -> Connection:
    """Where to call, by the options before the command; raises NoConnection."""
    return find_connection(**context.find_root().obj)


@contextmanager
def client_of(context: typer.Context) -> Iterator[SedrayClient]:
    """A client, with every failure turned into a message and an exit code."""
    try:
        connection = connection_of(context)
        with SedrayClient(connection.url, connection.token) as client:
            yield client
    except ProblemReply as error:
        print_problem(errors, error.title, error.detail, error.errors)
        raise typer.Exit(ExitCode.REFUSED) from error
    except (ServiceUnreachable, NoConnection) as error:
        print_problem(errors, "no service", str(error), [])
        raise typer.Exit(ExitCode.UNREACHABLE) from error
    except UnknownAnswer as error:
        print_problem(errors, "another version", str(error), [])
        raise typer.Exit(ExitCode.FAILED) from error
    except UnreadableSpec as error:
        print_problem(errors, "the specification cannot be read", str(error), [])
        raise typer.Exit(ExitCode.USAGE) from error


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A sign of life on a terminal, on standard error, while the service works on something that may take minutes."""
    if errors.is_terminal:
        with errors.status(what):
            yield
    else:
        yield


def answer(model: BaseModel, shown: RenderableType, as_json: bool) -> None:
    """The service's answer as data, or what is shown to people instead; words are no markup."""
    if as_json:
        print_json(model)
    elif isinstance(shown, str):
        console.print(Text(shown), soft_wrap=True)
    else:
        console.print(shown)


def print_secret(secret: str, what: str) -> None:
    """The secret alone on standard output, so that it can be piped; what it is, for people, on standard error."""
    errors.print(what, soft_wrap=True, highlight=False, markup=False)
    typer.echo(secret)
