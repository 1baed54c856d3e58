"""The commands. Each prints for people, or with `--json` the service's own answer.

Exit codes: `api.cli.calling.ExitCode`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli import stack
from api.cli.admin import admin_app
from api.cli.admin.tables import me_view
from api.cli.admin.tokens import token_app
from api.cli.arguments import ExperimentId
from api.cli.calling import AsJson, ExitCode, client_of, console, print_json, waiting
from api.cli.certificate_text import certificate_summary, certificate_view
from api.cli.compare import compare
from api.cli.completion import profile_names
from api.cli.data_preview import preview_view
from api.cli.demo import run_demo
from api.cli.doctor import diagnosis_view, examine, is_well
from api.cli.export_commands import export_app
from api.cli.forms import Commands, print_entry
from api.cli.import_commands import import_app
from api.cli.log_printer import LogPrinter
from api.cli.panels import HERE, LOOK, QUEUE, RUN, SERVICE, STUDIES
from api.cli.profile_commands import profile_app
from api.cli.queue_commands import add_queue_commands
from api.cli.queue_tables import orders_view
from api.cli.serve import serve
from api.cli.spec_files import apply_overrides, load_spec
from api.cli.study_commands import study_app
from api.cli.study_report import add_study_report_commands, report
from api.cli.tables import experiment_view, experiments_table, plan_view, queue_table, results_table
from api.cli.token_text import token_text, token_views_table
from api.cli.watch import watch as watch_live
from api.client import SedrayClient
from api.client.connection import DEFAULT_DATA
from api.schemas import Experiment
from service.contract.failures import NO_FAILURE
from service.contract.json_schema import schema_text
from service.contract.status import ExperimentStatus

app = Commands(
    name="sedray",
    help="Run SFT-then-RL experiments: submit them, follow them, compare what they leave behind.",
    epilog="A profile says where the service is: sedray profile add NAME --url … --token-file …",
    pretty_exceptions_enable=False,
)
data_app = Commands(help="Look at data before a run.")
app.add_typer(data_app, name="data", rich_help_panel=STUDIES)
add_queue_commands(app)
app.add_typer(admin_app, name="admin", rich_help_panel=SERVICE)
app.add_typer(token_app, name="token", rich_help_panel=SERVICE)
app.add_typer(profile_app, name="profile", rich_help_panel=HERE)
add_study_report_commands(study_app)
app.add_typer(study_app, name="study", rich_help_panel=STUDIES)
app.command("report", rich_help_panel=STUDIES)(report)
app.command("compare", rich_help_panel=STUDIES)(compare)
app.add_typer(import_app, name="import", rich_help_panel=HERE)
app.add_typer(export_app, name="export", rich_help_panel=HERE)
app.command("serve", rich_help_panel=HERE)(serve)

SpecFile = Annotated[Path, typer.Argument(help="Specification in YAML or JSON.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value: sft.objective.lambda=2 (repeatable).")
]
DataFolder = Annotated[Path, typer.Option("--data", help="Data folder of the local stack.")]


@app.callback()
def connect(
    context: typer.Context,
    profile: Annotated[
        str | None,
        typer.Option(help="Service by name; see `sedray profile`.", show_default=False, autocompletion=profile_names),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Address of the service.", show_default=False)] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with your API token.", show_default=False)] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data folder of a local stack; default ./.sedray.", show_default=False)
    ] = None,
) -> None:
    """Remembers where the service is; nothing is called before a command needs it."""
    if profile is not None and data is not None:
        raise typer.BadParameter("--profile and --data each name a service; give one of them")
    context.obj = {"url": url, "token_file": token_file, "data": data, "profile": profile}


@app.command(rich_help_panel=HERE)
def up(
    data: DataFolder = DEFAULT_DATA,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless told otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the API and page; 0 takes a free one.")] = 0,
    num_cpus: Annotated[int | None, typer.Option(help="CPUs that Ray hands out; default: the machine's.")] = None,
    database_url: Annotated[str | None, typer.Option(help="Use this PostgreSQL instead of the embedded one.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Use the Ray cluster with this dashboard address.")] = None,
    ray_token_file: Annotated[Path | None, typer.Option(help="Token file of that Ray cluster.")] = None,
) -> None:
    """Start PostgreSQL, Ray, the API and the scheduler, and keep them up until Ctrl-C."""
    options: dict[str, object] = {
        "--data": data,
        "--host": host,
        "--port": port,
        "--num-cpus": num_cpus,
        "--database-url": database_url,
        "--ray-address": ray_address,
        "--ray-token-file": ray_token_file,
    }
    stack.become([part for name, value in options.items() if value is not None for part in (name, str(value))])


@app.command(rich_help_panel=RUN)
def submit(
    context: typer.Context,
    spec_file: SpecFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option(help="Show the derived numbers; store nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the experiment to its end.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="Submit at most once under this key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Queue an experiment."""
    with client_of(context) as client:
        spec = _specification(spec_file, overrides)
        if dry_run:
            reply = client.dry_run(spec)
            console.print(plan_view(reply)) if not as_json else print_json(reply)
            return
        experiment = client.submit(spec, idempotency_key=idempotency_key)
        if watch:
            _follow(client, experiment.id, as_json)
        elif as_json:
            print_json(experiment)
        else:
            console.print(f"{experiment.id} is {experiment.status.value}; follow it with: sedray watch {experiment.id}")


@app.command("ls", rich_help_panel=LOOK)
def list_experiments(
    context: typer.Context,
    status: Annotated[ExperimentStatus | None, typer.Option(help="Only experiments of this status.")] = None,
    project: Annotated[str | None, typer.Option(help="Only experiments of this project.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only experiments with this tag.")] = None,
    name: Annotated[str | None, typer.Option(help="Only experiments whose name contains this.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Continue where the last page ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List experiments, newest first."""
    with client_of(context) as client:
        page = client.experiments(status=status, project=project, tag=tag, name=name, limit=limit, cursor=cursor)
        if as_json:
            print_json(page)
            return
        console.print(experiments_table(page.items))
        if page.next_cursor:
            console.print(f"more: --cursor {page.next_cursor}", style="dim", soft_wrap=True)


@app.command(rich_help_panel=QUEUE)
def queue(context: typer.Context, as_json: AsJson = False) -> None:
    """Show capacity, what runs, what waits, and why."""
    with client_of(context) as client:
        reply = client.queue()
        if as_json:
            print_json(reply)
            return
        console.print(orders_view(client.queue_orders()), queue_table(reply), sep="")


@app.command(rich_help_panel=LOOK)
def show(context: typer.Context, experiment_id: ExperimentId, as_json: AsJson = False) -> None:
    """Show one experiment with its attempts and results."""
    with client_of(context) as client:
        experiment = client.experiment(experiment_id)
        if as_json:
            print_json(experiment)
            return
        console.print(experiment_view(experiment))
        failed = [attempt.number for attempt in experiment.attempts if attempt.end_reason not in (None, *NO_FAILURE)]
        if failed:
            console.print("\nThe last failure", style="italic")
            console.print(certificate_summary(client.certificate(experiment_id, failed[-1])))


@app.command(rich_help_panel=LOOK)
def certificate(
    context: typer.Context,
    experiment_id: ExperimentId,
    attempt: Annotated[int | None, typer.Option(min=1, help="Which attempt; default: the last one.")] = None,
    lines: Annotated[int, typer.Option(min=1, max=200, help="Last lines of each source.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what an ended attempt died of, with its last lines and what to do."""
    with client_of(context) as client:
        number = attempt or max(len(client.experiment(experiment_id).attempts), 1)
        found = client.certificate(experiment_id, number)
        console.print(certificate_view(found, num_lines=lines)) if not as_json else print_json(found)


@app.command(rich_help_panel=RUN)
def watch(context: typer.Context, experiment_id: ExperimentId, as_json: AsJson = False) -> None:
    """Follow an experiment live to its end.

    With --json one line for each message of the live stream.
    """
    with client_of(context) as client:
        _follow(client, experiment_id, as_json)


@app.command(rich_help_panel=LOOK)
def logs(
    context: typer.Context,
    experiment_id: ExperimentId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the experiment has ended.")] = False,
    tail: Annotated[int, typer.Option(min=1, max=2000, help="Begin with the newest so many lines.")] = 200,
    everything: Annotated[bool, typer.Option("--all", help="Begin with the first line.")] = False,
    source: Annotated[str | None, typer.Option(help="Only of one source, such as driver or Trainer:4711.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Only of one attempt.")] = None,
    search: Annotated[str | None, typer.Option(help="Only lines that contain this.")] = None,
    sources: Annotated[bool, typer.Option("--sources", help="List who has written lines instead.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the whole log to this file.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what the driver and its actors wrote."""
    with client_of(context) as client:
        if output is not None:
            with waiting(f"writing {output} …"):
                client.download_log(experiment_id, output)
            console.print(f"written to {output}", markup=False, soft_wrap=True)
            return
        if sources:
            found = client.log_sources(experiment_id)
            console.print(*found.items, sep="\n", markup=False) if not as_json else print_json(found)
            return
        reader = LogPrinter(client, experiment_id, as_json=as_json, source=source, attempt=attempt, search=search)
        reader.print_all() if everything else reader.print_newest(tail)
        if not follow:
            return
        for message in client.stream(experiment_id):
            if message.event in ("logs", "end"):
                reader.print_new()


@app.command("tokens", hidden=True)  # what it was called before API tokens came
@app.command("token-view", rich_help_panel=LOOK)
def token_view(
    context: typer.Context,
    experiment_id: ExperimentId,
    step: Annotated[
        int | None, typer.Option(min=0, help="After so many steps; default: the newest view.", show_default=False)
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="Which held-out sample.")] = 0,
    which: Annotated[
        bool, typer.Option("--list", help="List which samples were looked at, after which steps.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a held-out sample token by token: which are flexible, and what the model thinks of them."""
    with client_of(context) as client:
        if which:
            page = client.token_views(experiment_id, limit=1000)
            console.print(token_views_table(page.items)) if not as_json else print_json(page)
            return
        if step is None:
            views = client.token_views(experiment_id, sample_index=sample, limit=1000).items
            step = max((view.step for view in views), default=0)
        view = client.token_view(experiment_id, step=step, sample_index=sample)
        console.print(token_text(view)) if not as_json else print_json(view)


@app.command(rich_help_panel=RUN)
def cancel(context: typer.Context, experiment_id: ExperimentId, as_json: AsJson = False) -> None:
    """Cancel an experiment, queued or running."""
    with client_of(context) as client:
        _report(client.cancel(experiment_id), as_json)


@app.command(rich_help_panel=RUN)
def retry(context: typer.Context, experiment_id: ExperimentId, as_json: AsJson = False) -> None:
    """Queue a failed or cancelled experiment again; it goes on from its last checkpoint."""
    with client_of(context) as client:
        _report(client.retry(experiment_id), as_json)


@app.command(rich_help_panel=SERVICE)
def whoami(context: typer.Context, as_json: AsJson = False) -> None:
    """Show whose token you use, and your role in each project."""
    with client_of(context) as client:
        me = client.me()
        console.print(me_view(me)) if not as_json else print_json(me)


@app.command(rich_help_panel=SERVICE)
def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Look into the service and all that it stands on; for admins.

    Exit code 1 if something is at fault.
    """
    with client_of(context) as client:
        found = examine(client)
        console.print(diagnosis_view(found)) if not as_json else print_json(found)
        if not is_well(found):
            raise typer.Exit(ExitCode.FAILED)


@app.command(rich_help_panel=STUDIES)
def schema() -> None:
    """Print the JSON Schema of specifications."""
    typer.echo(schema_text(), nl=False)


@data_app.command("preview")
def preview_data(
    context: typer.Context,
    spec_file: SpecFile,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(help="Samples shown of each data set.", min=0, max=20)] = 3,
    records: Annotated[int, typer.Option(help="Records read of each source.", min=1, max=200_000)] = 20_000,
    as_json: AsJson = False,
) -> None:
    """Show the samples that a specification's data become, with what is trained of them."""
    with client_of(context) as client:
        spec = _specification(spec_file, overrides)
        with waiting("reading and tokenizing the data …"):
            preview = client.preview_data(spec, num_samples=samples, max_records=records)
        console.print(preview_view(preview)) if not as_json else print_json(preview)


@app.command(rich_help_panel=HERE)
def demo(
    spec_file: Annotated[Path, typer.Argument(help="Specification to run.")] = Path("examples/countdown/sed.yaml"),
    data: DataFolder = DEFAULT_DATA / "demo",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up afterwards, until Ctrl-C.")] = False,
) -> None:
    """Start a local stack, run the built-in experiment through REST, show its result, stop the stack."""
    raise typer.Exit(run_demo(spec_file, data, keep=keep, console=console))


def main() -> None:
    """The console script's entry."""
    app()


def _specification(spec_file: Path, overrides: list[str] | None) -> dict[str, Any]:
    spec = load_spec(spec_file)
    apply_overrides(spec, overrides or [])
    return spec


def _follow(client: SedrayClient, experiment_id: str, as_json: bool) -> None:
    if as_json:
        for message in client.stream(experiment_id):
            print_entry({"event": message.event, "id": message.id, "data": message.data})
        experiment = client.experiment(experiment_id)
    else:
        experiment = watch_live(client, experiment_id, console)
        if experiment.stage_results:
            console.print(results_table(experiment))
        if experiment.message:
            console.print(experiment.message, markup=False)
    if experiment.status is not ExperimentStatus.SUCCEEDED:
        raise typer.Exit(ExitCode.FAILED)


def _report(experiment: Experiment, as_json: bool) -> None:
    if as_json:
        print_json(experiment)
    else:
        console.print(f"{experiment.id} is {experiment.status.value}")
