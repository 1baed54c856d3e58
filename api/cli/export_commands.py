"""`sedray export`: a run or its model in other tools' formats, written on this machine over the API."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml

from api.cli.arguments import ExperimentId
from api.cli.calling import ExitCode, client_of, console, errors
from api.cli.forms import Commands
from api.cli.tables import print_problem
from api.export_schemas import ModelFileOut
from api.exports.checkpoint_folder import SPECIFICATION, CannotExport, export_checkpoint, trained_stage
from api.exports.extras import MissingExtra
from api.exports.gathered_run import read_series
from api.exports.mlflow_run import RunExists, export_mlflow
from api.exports.model_card import model_card
from api.exports.tensorboard_files import FolderInUse, export_tensorboard
from api.results import shown_bytes
from api.schemas import Experiment

export_app = Commands(help="Write a run or its model in other tools' formats.")


@export_app.command("checkpoint")
def export_model(
    context: typer.Context,
    experiment_id: ExperimentId,
    folder: Annotated[Path, typer.Argument(help="Empty, new, or with an export that broke off.", show_default=False)],
    stage: Annotated[
        Literal["sft", "rl"] | None, typer.Option(help="Whose model; default: the last one.", show_default=False)
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The base model's name on the hub, for the card.", show_default=False)
    ] = None,
) -> None:
    """Write a Hugging Face folder: weights, tokenizer, a card with data, objective, seeds and results."""
    with client_of(context) as client, _explained():
        experiment = client.experiment(experiment_id)
        chosen = trained_stage(experiment, stage)
        export_checkpoint(client, experiment, chosen, folder, base_model=base_model, on_file=_tell_file)
        console.print(f"{folder}: the model after {chosen} of {experiment_id}", markup=False, soft_wrap=True)
        console.print("the card names no license: that is yours to say, in README.md", style="dim", soft_wrap=True)


@export_app.command("mlflow")
def export_to_mlflow(
    context: typer.Context,
    experiment_id: ExperimentId,
    place: Annotated[str, typer.Argument(help="A folder, or the address of a tracking server.", show_default=False)],
    name: Annotated[str, typer.Option("--experiment", help="MLflow's experiment; made if there is none.")] = "sedray",
) -> None:
    """Write parameters, metrics with their steps and times, tags, specification and card. Needs sedray[mirrors]."""
    with client_of(context) as client, _explained():
        experiment = client.experiment(experiment_id)
        series = read_series(client, experiment)
        run_id = export_mlflow(experiment, series, _documents(experiment), place=place, name=name)
        console.print(f"{place}: run {run_id} in experiment {name}", markup=False, soft_wrap=True)


@export_app.command("tensorboard")
def export_to_tensorboard(
    context: typer.Context,
    experiment_id: ExperimentId,
    folder: Annotated[Path, typer.Argument(help="The experiment gets a folder below it.", show_default=False)],
) -> None:
    """Write event files with every point of every metric. Needs sedray[mirrors]."""
    with client_of(context) as client, _explained():
        experiment = client.experiment(experiment_id)
        target = export_tensorboard(experiment, read_series(client, experiment), folder)
        console.print(f"{target}: look at it with: tensorboard --logdir {folder}", markup=False, soft_wrap=True)


@contextmanager
def _explained() -> Iterator[None]:
    """Failures of an export as messages and exit codes; those of the service are told by the client's own block."""
    try:
        yield
    except MissingExtra as error:
        print_problem(errors, "a tool is missing", str(error), [])
        raise typer.Exit(ExitCode.USAGE) from error
    except (CannotExport, RunExists, FolderInUse) as error:
        print_problem(errors, "cannot export", str(error), [])
        raise typer.Exit(ExitCode.FAILED) from error
    except OSError as error:
        print_problem(errors, "cannot write", f"{error.filename or ''}: {error.strerror or error}", [])
        raise typer.Exit(ExitCode.FAILED) from error


def _tell_file(file: ModelFileOut) -> None:
    console.print(f"  {file.name}  {shown_bytes(file.num_bytes)}", style="dim", markup=False, soft_wrap=True)


def _documents(experiment: Experiment) -> dict[str, str]:
    """The specification, and the card of the last model where there is one."""
    spec = experiment.spec.model_dump(mode="json", by_alias=True)
    found = {SPECIFICATION: yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)}
    try:
        return found | {"README.md": model_card(experiment, trained_stage(experiment, None))}
    except CannotExport:
        return found
