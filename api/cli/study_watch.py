"""Follows a study to its end: a bar and the arms on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from api.cli.study_tables import arms_table, progress_line, state_text
from api.client import SedrayClient, ServiceUnreachable
from api.study_schemas import StudyOut, StudyRunOut

Answer = TypeVar("Answer")
_LOOK_S = 2.0
_UNREACHABLE_S = 600.0
"""A service that is being restarted is waited for; after so long the watching ends."""


def watch_study(client: SedrayClient, study_id: str, to: Console) -> StudyOut:
    """The study when nothing of it waits or runs any more. The service may be restarted meanwhile."""
    study = client.study(study_id)
    return _watch_on_terminal(client, study, to) if to.is_terminal else _watch_in_lines(client, study, to)


def _watch_on_terminal(client: SedrayClient, study: StudyOut, to: Console) -> StudyOut:
    with Live(console=to, refresh_per_second=2) as live:
        for now in _looks(client, study):
            live.update(_picture(now, _patiently(partial(client.study_runs, study.id)).items))
    return now


def _watch_in_lines(client: SedrayClient, study: StudyOut, to: Console) -> StudyOut:
    said = ""
    for now in _looks(client, study):
        if (line := progress_line(now)) != said:
            to.print(line, highlight=False, markup=False, soft_wrap=True)
            said = line
    return now


def _looks(client: SedrayClient, study: StudyOut) -> Iterator[StudyOut]:
    """The study now and again, until it is over; the last one is."""
    while True:
        yield study
        if study.is_over:
            return
        time.sleep(_LOOK_S)
        study = _patiently(partial(client.study, study.id))


def _patiently(ask: Callable[[], Answer]) -> Answer:
    limit = time.monotonic() + _UNREACHABLE_S
    while True:
        try:
            return ask()
        except ServiceUnreachable:
            if time.monotonic() > limit:
                raise
            time.sleep(_LOOK_S)


def _picture(study: StudyOut, runs: list[StudyRunOut]) -> Group:
    head = Text.assemble(f"{study.name}  {study.id}  ", state_text(study.state))
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=max(1, study.num_runs), completed=study.num_ended, width=36),
        f"{study.num_ended}/{study.num_runs} ended",
        f"{study.gpu_hours:.3g} GPU-h, {study.cpu_hours:.3g} CPU-h",
    )
    return Group(head, bar, arms_table(runs))
