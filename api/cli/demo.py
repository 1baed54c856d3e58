"""`sedray demo`: the main job end to end on a local stack, and what may be said of its result."""

import time
from pathlib import Path

from rich.console import Console

from api.cli.spec_files import UnreadableSpec, load_spec
from api.cli.stack import StackFailed, running_stack
from api.cli.tables import print_problem, results_table
from api.cli.watch import watch
from api.client import NoConnection, SedrayClient, SedrayError
from api.client.connection import Connection, find_connection
from api.schemas import Experiment
from service.contract.status import ExperimentStatus

_CLOSING = (
    "What this shows: the way from a specification to its result. One run of one seed ranks no objective. "
    "What was seen in every seed of our explorations of this task: right after SFT, SED keeps more diversity than "
    "cross entropy (pass@8, Self-BLEU, distinct answers). SFT narrows the base model here, and RL without SFT does no "
    "worse: whether any objective leaves a better start for RL is a question for a study over many seeds."
)


def run_demo(spec_file: Path, data: Path, *, keep: bool, console: Console) -> int:
    """Runs the specification on a fresh or known stack in `data`; returns the exit code."""
    began = time.monotonic()
    try:
        spec = load_spec(spec_file)
        console.print("starting PostgreSQL, Ray, the API and the scheduler …")
        with running_stack(data, start_deadline_s=120) as stack:
            connection = find_connection(data=data)
            _print_addresses(console, connection)
            with SedrayClient(connection.url, connection.token) as client:
                experiment = watch(client, client.submit(spec).id, console)
            _print_result(console, experiment, time.monotonic() - began)
            if keep:
                console.print(f"The stack stays up until Ctrl-C; use it with: sedray --data {data} ls")
                stack.wait()
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (StackFailed, NoConnection, UnreadableSpec, SedrayError) as error:
        print_problem(console, "the demo failed", str(error), getattr(error, "errors", []))
        return 1
    return 0 if experiment.status is ExperimentStatus.SUCCEEDED else 1


def _print_addresses(console: Console, connection: Connection) -> None:
    console.print(f"page           {connection.url}/login?token={connection.token}", soft_wrap=True, highlight=False)
    console.print(
        f"Ray dashboard  {connection.ray_dashboard_url} (asks for Ray's token)", soft_wrap=True, highlight=False
    )


def _print_result(console: Console, experiment: Experiment, took_s: float) -> None:
    console.print(results_table(experiment))
    if experiment.status is not ExperimentStatus.SUCCEEDED:
        console.print(f"{experiment.status.value}: {experiment.message}", markup=False)
        return
    console.print(f"{took_s:.0f} s in all, the start of the stack included", highlight=False)
    console.print(_CLOSING, highlight=False)
