"""Commands about studies: `sedray study …`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.cli.arguments import StudyId
from api.cli.calling import AsJson, ExitCode, client_of, console, print_json, waiting
from api.cli.forms import Commands
from api.cli.spec_files import absolute_arm, apply_overrides, load_object, load_study
from api.cli.study_report import print_report
from api.cli.study_tables import studies_table, study_plan_view, study_view
from api.cli.study_watch import watch_study
from api.client import SedrayClient
from api.study_schemas import StudyOut
from service.contract.status import ExperimentStatus
from service.contract.study_changes import StudyState

study_app = Commands(help="Studies: a question, its arms and seeds, and what decides.")

StudyFile = Annotated[Path, typer.Argument(help="The study in YAML or JSON.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a value: max_running=2 (repeatable).")]
Reason = Annotated[str, typer.Option("--reason", help="What others shall read.")]


@study_app.command("submit")
def submit(
    context: typer.Context,
    study_file: StudyFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option(help="Show what would follow; store nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the study to its end.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="Submit at most once under this key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Lock a study and queue all its experiments."""
    with client_of(context) as client:
        study = load_study(study_file)
        apply_overrides(study, overrides or [])
        if dry_run:
            with waiting("planning every arm …"):
                reply = client.dry_run_study(study)
            console.print(study_plan_view(reply)) if not as_json else print_json(reply)
            return
        with waiting("planning every arm and queueing the experiments …"):
            submitted = client.submit_study(study, idempotency_key=idempotency_key)
        if watch:
            _follow(client, submitted.id, as_json)
            return
        _say(submitted, as_json, f"queued with {submitted.num_runs} experiments; see: sedray study show {submitted.id}")


@study_app.command("watch")
def watch(context: typer.Context, study_id: StudyId, as_json: AsJson = False) -> None:
    """Follow a study to its end."""
    with client_of(context) as client:
        _follow(client, study_id, as_json)


@study_app.command("ls")
def list_studies(
    context: typer.Context,
    state: Annotated[StudyState | None, typer.Option(help="Only studies in this state.")] = None,
    project: Annotated[str | None, typer.Option(help="Only studies of this project.")] = None,
    name: Annotated[str | None, typer.Option(help="Only studies whose name contains this.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Continue where the last page ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List studies, newest first."""
    with client_of(context) as client:
        page = client.studies(state=state, project=project, name=name, limit=limit, cursor=cursor)
        if as_json:
            print_json(page)
            return
        console.print(studies_table(page.items))
        if page.next_cursor:
            console.print(f"more: --cursor {page.next_cursor}", style="dim", soft_wrap=True)


@study_app.command("show")
def show(context: typer.Context, study_id: StudyId, as_json: AsJson = False) -> None:
    """Show where a study stands: arms, amendments, what it has used."""
    with client_of(context) as client:
        study = client.study(study_id)
        if as_json:
            print_json(study)
            return
        console.print(study_view(study, client.study_runs(study_id).items))


@study_app.command("runs")
def list_runs(context: typer.Context, study_id: StudyId, as_json: AsJson = False) -> None:
    """List a study's experiments."""
    with client_of(context) as client:
        page = client.study_runs(study_id)
        if as_json:
            print_json(page)
            return
        table = Table(box=None, pad_edge=False)
        for column in ("ID", "ARM", "SFT", "RL", "STATUS", "WHY"):
            table.add_column(column, overflow="fold")
        for run in page.items:
            why = f"excluded: {run.excluded_reason}" if run.excluded_at else run.waiting_reason or run.message
            seeds = str(run.sft_seed), str(run.rl_seed)
            table.add_row(run.experiment_id, Text(run.arm), *seeds, run.status.value, Text(why))
        console.print(table)


@study_app.command("amend")
def amend(
    context: typer.Context,
    study_id: StudyId,
    reason: Annotated[str, typer.Option("--reason", help="Why; readers of the report see it.", show_default=False)],
    sft_seed: Annotated[list[int] | None, typer.Option(help="A further SFT seed (repeatable).")] = None,
    rl_seed: Annotated[list[int] | None, typer.Option(help="A further RL seed (repeatable).")] = None,
    arms: Annotated[Path | None, typer.Option(help="YAML file with `add_arms: [{name, overrides}, …]`.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="budget.max_gpu_hours=40, max_running=null … (repeatable).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add seeds or arms to a study, or change its budget. What decides stays as it was stated."""
    change: dict[str, Any] = {"reason": reason}
    with client_of(context) as client:
        if sft_seed:
            change["add_sft_seeds"] = sft_seed
        if rl_seed:
            change["add_rl_seeds"] = rl_seed
        if arms is not None:
            base = client.study(study_id).submitted_spec.base
            change["add_arms"] = _arms_of(arms, base)
        apply_overrides(change, overrides or [])
        study = client.amend_study(study_id, change)
        _say(study, as_json, f"{study.state.value}, with {study.num_runs} experiments")


@study_app.command("pause")
def pause(context: typer.Context, study_id: StudyId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Hold what waits of a study; what runs goes on."""
    with client_of(context) as client:
        _say(client.pause_study(study_id, reason), as_json, "paused")


@study_app.command("resume")
def resume(context: typer.Context, study_id: StudyId, as_json: AsJson = False) -> None:
    """Let a paused study go on."""
    with client_of(context) as client:
        _say(client.resume_study(study_id), as_json, "running")


@study_app.command("cancel")
def cancel(context: typer.Context, study_id: StudyId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Cancel a study as a whole. There is no way back."""
    with client_of(context) as client:
        _say(client.cancel_study(study_id, reason), as_json, "cancelled")


@study_app.command("exclude")
def exclude(
    context: typer.Context,
    study_id: StudyId,
    experiment_id: Annotated[str, typer.Argument(help="One of its experiments.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Why; the report lists it.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Take a run out of the study's figures."""
    with client_of(context) as client:
        page = client.exclude_run(study_id, experiment_id, reason)
        console.print(f"{experiment_id} is excluded from {study_id}") if not as_json else print_json(page)


@study_app.command("include")
def include(
    context: typer.Context,
    study_id: StudyId,
    experiment_id: Annotated[str, typer.Argument(help="One of its experiments.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Take an exclusion back."""
    with client_of(context) as client:
        page = client.include_run(study_id, experiment_id)
        console.print(f"{experiment_id} counts again in {study_id}") if not as_json else print_json(page)


def _arms_of(file: Path, base: dict[str, Any]) -> Any:
    found = load_object(file, "an object with the key add_arms").get("add_arms", [])
    return [absolute_arm(base, arm, file.resolve().parent) for arm in found]


def _say(study: StudyOut, as_json: bool, what: str) -> None:
    print_json(study) if as_json else console.print(f"{study.id} is {what}", highlight=False, soft_wrap=True)


def _follow(client: SedrayClient, study_id: str, as_json: bool) -> None:
    """Ends with code 1 unless each arm has a run that succeeded, and nobody cancelled the study."""
    study = watch_study(client, study_id, Console(stderr=True) if as_json else console)
    runs = client.study_runs(study_id).items
    print_json(study) if as_json else console.print(study_view(study, runs))
    if not as_json:
        print_report(client, study_id)
    succeeded = {run.arm for run in runs if run.status is ExperimentStatus.SUCCEEDED}
    if study.state is StudyState.CANCELLED or {run.arm for run in runs} - succeeded:
        raise typer.Exit(ExitCode.FAILED)
