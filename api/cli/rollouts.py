"""`sedray rollouts`: stored completions in the terminal, as JSON lines, or as a Parquet file."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.arguments import ExperimentId
from api.cli.calling import client_of, console, errors, print_json, waiting
from api.cli.commands import app
from api.cli.forms import plain, print_entry
from api.cli.panels import LOOK
from api.cli.tables import print_problem
from api.results import shown_bytes
from api.schemas import StoredRolloutOut
from service.contract.stored_rollouts import MAX_LIMIT, RolloutQuery
from service.contract.strict_model import describe_errors

_SHOWN = 20
_NOTHING = Text("no stored completion fits", style="dim")


@app.command("rollouts", rich_help_panel=LOOK)
def show_rollouts(
    context: typer.Context,
    experiment_id: ExperimentId,
    step: Annotated[int | None, typer.Option(help="Of this RL step alone.")] = None,
    from_step: Annotated[int | None, typer.Option(help="From this RL step on.")] = None,
    to_step: Annotated[int | None, typer.Option(help="Up to this RL step, itself included.")] = None,
    min_reward: Annotated[float | None, typer.Option(help="With at least this reward.")] = None,
    max_reward: Annotated[float | None, typer.Option(help="With at most this reward.")] = None,
    min_tokens: Annotated[int | None, typer.Option(help="With at least so many tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="With at most so many tokens.")] = None,
    policy_version: Annotated[int | None, typer.Option(help="Sampled by this version of the policy.")] = None,
    min_age: Annotated[int | None, typer.Option(help="Sampled at least so many versions before training.")] = None,
    max_age: Annotated[int | None, typer.Option(help="Sampled at most so many versions before training.")] = None,
    prompt: Annotated[int | None, typer.Option(help="Of the prompt with this uid, over all steps.")] = None,
    finish_reason: Annotated[str | None, typer.Option(help="'stop', or 'length' where the limit cut it.")] = None,
    contains: Annotated[str | None, typer.Option(help="Whose text holds this, in whatever case.")] = None,
    prompt_contains: Annotated[str | None, typer.Option(help="Whose prompt holds this.")] = None,
    order: Annotated[str, typer.Option(help="step, reward or num_tokens; with a minus, falling.")] = "-step",
    whole: Annotated[bool, typer.Option("--whole", help="Look at whole steps instead of every step's sample.")] = False,
    columns: Annotated[str | None, typer.Option(help="With --json or --export: these columns, by commas.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"At most so many; default {_SHOWN}, and all with --export.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Print prompts and completions whole.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write a Parquet file instead.", show_default=False)] = None,
    stored: Annotated[bool, typer.Option("--stored", help="List the steps that are stored whole instead.")] = False,
    download: Annotated[
        Path | None,
        typer.Option(help="Write the file of --step, which is stored whole, to this file.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each completion.")] = False,
) -> None:
    """Search the completions that RL has stored."""
    if stored or download is not None:
        _whole_steps(context, experiment_id, step if download else None, download, as_json)
        return
    if step is not None and (from_step is not None or to_step is not None):
        raise typer.BadParameter("--step names one step; leave it out to give a range")
    if columns is not None and not (as_json or export):
        raise typer.BadParameter("--columns belongs to --json or --export; the table has columns of its own")
    query = _query(
        store="whole" if whole else "sample",
        from_step=from_step if step is None else step,
        to_step=to_step if step is None else step,
        min_reward=min_reward,
        max_reward=max_reward,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        policy_version=policy_version,
        min_age=min_age,
        max_age=max_age,
        prompt_uid=prompt,
        finish_reason=finish_reason,
        contains=contains,
        prompt_contains=prompt_contains,
        order=order,
        columns=None if columns is None else [name.strip() for name in columns.split(",")],
        limit=limit if export else min(limit or _SHOWN, MAX_LIMIT),
        format="parquet" if export else "json",
    )
    with client_of(context) as client:
        if export is not None:
            with waiting(f"writing {export} …"):
                client.export_rollouts(experiment_id, export, query)
            console.print(f"written: {export}", markup=False, soft_wrap=True)
            return
        found = islice(client.search_rollouts(experiment_id, query), limit or _SHOWN)
        if as_json:
            for one in found:
                print_entry(plain(one, exclude_unset=True))
        else:
            console.print(whole_view(found) if full else table_view(found))


def _whole_steps(
    context: typer.Context, experiment_id: str, step: int | None, target: Path | None, as_json: bool
) -> None:
    if target is not None and step is None:
        raise typer.BadParameter("--download writes the file of one step; give it with --step")
    with client_of(context) as client:
        if target is not None and step is not None:
            with waiting(f"writing {target} …"):
                client.download_rollouts(experiment_id, step, target)
            console.print(f"written: {target}", markup=False, soft_wrap=True)
            return
        page = client.stored_rollouts(experiment_id)
        if as_json:
            print_json(page)
            return
        table = Table("STEP", "SIZE", box=None, pad_edge=False)
        for one in page.items:
            table.add_row(str(one.step), shown_bytes(one.num_bytes))
        console.print(table if page.items else Text("no step is stored whole", style="dim"))


def table_view(found: Iterable[StoredRolloutOut]) -> RenderableType:
    """A line for each completion."""
    table = Table(box=None, pad_edge=False)
    for name in ("STEP", "PROMPT", "SAMPLE", "VERSION", "AGE", "TOKENS", "END", "REWARD"):
        table.add_column(name, justify="left" if name == "END" else "right", no_wrap=True)
    table.add_column("COMPLETION", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in found:
        table.add_row(*_facts(one).values(), _one_line(one.completion or ""))
    return table if table.row_count else _NOTHING


def whole_view(found: Iterable[StoredRolloutOut]) -> RenderableType:
    """Each completion behind its prompt."""
    parts = [part for one in found for part in _whole(one)]
    return Group(*parts) if parts else _NOTHING


def _whole(one: StoredRolloutOut) -> Iterator[RenderableType]:
    facts = "  ".join(f"{name} {value}" for name, value in _facts(one).items())
    parts = "  ".join(f"{name} {_number(value)}" for name, value in (one.reward_parts or {}).items())
    yield Text(facts + (f"  ({parts})" if parts else ""), style="bold")
    yield Text(_printable(one.prompt or ""), style="dim")
    yield Text(_printable(one.completion or ""))
    yield Text(f"answer: {_printable(one.answer or '')}\n", style="dim")


def _facts(one: StoredRolloutOut) -> dict[str, str]:
    values: dict[str, Any] = {
        "step": one.step,
        "prompt": one.prompt_uid,
        "sample": one.sample_index,
        "version": one.policy_version,
        "age": one.age,
        "tokens": one.num_tokens,
        "end": one.finish_reason,
    }
    return {name: "–" if value is None else str(value) for name, value in values.items()} | {
        "reward": _number(one.reward)
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _one_line(text: str) -> Text:
    return Text(_printable(text).replace("\n", "⏎"))


def _printable(text: str) -> str:
    """The text with nothing in it that could steer the terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else f"\\x{ord(sign):02x}" for sign in text)


def _query(**values: Any) -> RolloutQuery:
    """The question; ends the command where it cannot be meant."""
    try:
        return RolloutQuery(**values)
    except ValidationError as error:
        found = [
            entry | {"field": "all together"} if entry["field"] == "(body)" else entry
            for entry in describe_errors(error, RolloutQuery)
        ]
        print_problem(errors, "these rollouts cannot be asked for", "", found)
        raise typer.Exit(2) from error
