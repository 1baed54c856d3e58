"""What the shell completes from the service: ids of experiments and studies, names of metrics.

It answers within a short deadline or not at all: a shell that hangs is worse than one that completes nothing.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import typer

from api.client import RetryPolicy, SedrayClient, SedrayError
from api.client.connection import find_connection
from api.client.profiles import read_profiles

Completions = list[tuple[str, str]]
"""Each with a word of help."""
_DEADLINE_S = 1.5
_ONCE = RetryPolicy(max_tries=1, deadline_s=_DEADLINE_S)
_MOST = 200


def experiment_ids(ctx: typer.Context, incomplete: str) -> Completions:
    """Those of the newest experiments that begin so, or whose name does."""
    found = _ask(ctx, lambda client: client.experiments(limit=_MOST).items)
    return [
        (one.id, f"{one.name}, {one.status.value}")
        for one in found
        if one.id.startswith(incomplete) or one.name.startswith(incomplete)
    ]


def study_ids(ctx: typer.Context, incomplete: str) -> Completions:
    """Those of the newest studies that begin so."""
    found = _ask(ctx, lambda client: client.studies(limit=_MOST).items)
    return [(one.id, f"{one.name}, {one.state.value}") for one in found if one.id.startswith(incomplete)]


def metric_names(ctx: typer.Context, incomplete: str) -> Completions:
    """Metrics of the experiment that stands before them."""
    experiment_id = ctx.params.get("experiment_id")
    if not experiment_id:
        return []
    found = _ask(ctx, lambda client: client.metric_names(experiment_id).items)
    return [(one.name, one.unit) for one in found if one.name.startswith(incomplete)]


def profile_names(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Profiles of this machine."""
    try:
        yield from (name for name in read_profiles().by_name if name.startswith(incomplete))
    except SedrayError:
        return


def _ask(ctx: typer.Context, ask: Callable[[SedrayClient], list[Any]]) -> list[Any]:
    """What the service answers, or nothing. The command line is not run for a completion, so its options are read."""
    said = ctx.find_root().params
    files = {name: Path(said[name]) if said.get(name) else None for name in ("token_file", "data")}
    try:
        found = find_connection(url=said.get("url"), profile=said.get("profile"), **files)
        http = httpx.Client(timeout=_DEADLINE_S)
        with SedrayClient(found.url, found.token, http=http, timeout_s=_DEADLINE_S, retries=_ONCE) as client:
            return ask(client)
    except (SedrayError, OSError, ValueError):
        return []
