"""`sedray serve`: vLLM's OpenAI server on the model of an experiment, on this machine."""

import json
import os
import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from api.cli.calling import ExitCode, client_of, console, errors
from api.cli.tables import print_problem
from api.exports.checkpoint_folder import CannotExport, trained_stage
from api.model_server import (
    CannotServe,
    ModelServer,
    ServedModel,
    check_folder,
    environment_of,
    free_port,
    new_key,
    vllm_command,
)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SHOWN_CHARACTERS = 100

Stage = Literal["sft", "rl"]


def serve(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="ID|FOLDER", help="An experiment, or a model's folder.", show_default=False)
    ],
    extra: Annotated[list[str] | None, typer.Argument(metavar="[-- VLLM OPTIONS]", show_default=False)] = None,
    stage: Annotated[Stage | None, typer.Option(help="Whose model; default: the last one.", show_default=False)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless told otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="The model's name in requests.", show_default=False)] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=2, help="Tokens of prompt and completion.", show_default=False)
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable with the key; default: a new key.", show_default=False)
    ] = None,
    deadline: Annotated[float, typer.Option(min=1.0, help="Seconds until it must answer.")] = 600.0,
) -> None:
    """Serve the model with vLLM's OpenAI API on this machine until Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # both end as Ctrl-C does, with the server stopped
    try:
        folder, known_as, length = _model_of(context, what, stage)
        check_folder(folder)
        model = ServedModel(
            folder=folder,
            name=name or known_as,
            host=host,
            port=free_port(host, port),
            api_key=_key(api_key_env),
        )
        command = vllm_command(model, max_model_len=max_model_len or length, extra=extra or [])
        _run(model, command, deadline)
    except (CannotServe, CannotExport) as error:
        print_problem(errors, "cannot serve", str(error), [])
        raise typer.Exit(ExitCode.FAILED) from error
    except KeyboardInterrupt:
        console.print("stopped")


def _model_of(context: typer.Context, what: str, stage: Stage | None) -> tuple[Path, str, int | None]:
    """Folder, name and context length: of a folder itself, or of an experiment's stage."""
    if Path(what).is_dir():
        return Path(what).resolve(), Path(what).resolve().name, None
    with client_of(context) as client:
        experiment = client.experiment(what)
    chosen = trained_stage(experiment, stage)
    [result] = [result for result in experiment.stage_results if result.stage == chosen]
    where = str(result.checkpoint)
    if "://" in where or not Path(where).is_dir():
        raise CannotServe(
            f"the model after {chosen} lies at {where}, which this machine does not see; bring it here with: "
            f"sedray export checkpoint {what} FOLDER --stage {chosen}, then: sedray serve FOLDER"
        )
    return Path(where), f"{what}-{chosen}", experiment.spec.model.max_model_len


def _key(variable: str | None) -> str:
    if variable is None:
        return new_key()
    if not os.environ.get(variable):
        raise CannotServe(f"the environment has no {variable}, which --api-key-env names")
    return os.environ[variable]


def _run(model: ServedModel, command: list[str], deadline_s: float) -> None:
    with ModelServer(model, command, environment_of(model, os.environ)) as server:
        with console.status("starting vLLM") as status:
            server.wait_until_ready(
                deadline_s,
                lambda waited_s, line: status.update(f"starting vLLM, {waited_s:.0f} s: {_plain(line)}"),
            )
        _tell(model, server)
        code = server.wait()
        raise CannotServe(f"vLLM has ended by itself with exit code {code}; its log: {server.log}")


def _tell(model: ServedModel, server: ModelServer) -> None:
    body = json.dumps({"model": model.name, "prompt": "1 + 1 =", "max_tokens": 16})
    lines = [
        f"{model.folder}",
        f"serves {model.name} at {model.url}/v1; log: {server.log}",
        f"API key: {model.api_key}",
        f"curl {model.url}/v1/completions -H 'Authorization: Bearer {model.api_key}' "
        f"-H 'Content-Type: application/json' -d '{body}'",
        "Ctrl-C stops it",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    if model.host not in _LOOPBACK:
        errors.print("others can reach it: the key goes over the network in clear text", style="yellow")


def _plain(line: str) -> str:
    """One line of a log, without what could steer the terminal."""
    return "".join(sign for sign in line if sign.isprintable()).replace("[", "(")[:_SHOWN_CHARACTERS]
