"""What every command shares: the client, the consoles, exit codes, and how an answer is printed as JSON."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console

from api.cli.spec_files import UnreadableSpec
from api.cli.tables import print_problem
from api.client import NoConnection, ProblemReply, SedrayClient, ServiceUnreachable
from api.client.connection import Connection, find_connection

console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]


@contextmanager
def client_of(context: typer.Context) -> Iterator[SedrayClient]:
    """A client, with every failure turned into a message and an exit code."""
    try:
        connection: Connection = find_connection(**context.obj)
        with SedrayClient(connection.url, connection.token) as client:
            yield client
    except ProblemReply as error:
        print_problem(errors, error.title, str(error), error.errors)
        raise typer.Exit(1) from error
    except (ServiceUnreachable, NoConnection) as error:
        print_problem(errors, "no service", str(error), [])
        raise typer.Exit(3) from error
    except UnreadableSpec as error:
        print_problem(errors, "the specification cannot be read", str(error), [])
        raise typer.Exit(2) from error


def print_json(model: BaseModel) -> None:
    """The service's own answer."""
    sys.stdout.write(model.model_dump_json(indent=2) + "\n")


def print_secret(secret: str, what: str) -> None:
    """The secret alone on standard output, so that it can be piped; what it is, for people, on standard error."""
    errors.print(what, soft_wrap=True, highlight=False, markup=False)
    typer.echo(secret)
