"""Follows one experiment live: progress bars and metrics on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from api.cli.tables import status_text
from api.client import SedrayClient, StreamMessage
from api.schemas import Experiment
from service.contract.status import ExperimentStatus

_SHOWN = (
    "sft/loss",
    "sft/nll",
    "sft/sed/penalised_fraction",
    "reward/mean",
    "group/frac_reward_zero_std",
    "actor/entropy",
    "sampling/is_ratio_raw/mean",
    "timing_s/step",
)
"""Metrics that the terminal follows."""
_PLAIN_INTERVAL_S = 10.0


class Watcher:
    """What is known of the experiment from its stream."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.status = experiment.status
        self.done: dict[str, int] = {result.stage: result.steps_done for result in experiment.stage_results}
        self.progress: dict[str, Any] = (
            experiment.progress.model_dump(mode="json") if experiment.progress is not None else {}
        )
        self.values: dict[str, tuple[int, Any]] = {}
        self.events: list[str] = []

    def take(self, message: StreamMessage) -> str | None:
        """Notes a message; returns a line worth printing, if it holds one."""
        match message.event:
            case "event":
                return self._take_event(message.data)
            case "metrics":
                for value in message.data["values"]:
                    self.values[value["name"]] = (value["step"], value["value"])
            case "progress":
                self.progress = message.data or {}
            case "end":
                self.status = ExperimentStatus(message.data["status"])
        return None

    def render(self) -> RenderableType:
        """The picture for a terminal."""
        bars = Table.grid(padding=(0, 2))
        for stage in self.experiment.plan.stages:
            done = self._steps(stage.stage, stage.num_steps)
            bar = ProgressBar(total=max(stage.num_steps, 1), completed=done, width=36)
            bars.add_row(stage.stage, bar, f"{done}/{stage.num_steps}", Text(self._phase(stage.stage), style="dim"))
        metrics = Table.grid(padding=(0, 2))
        for name in _SHOWN:
            if name in self.values:
                step, value = self.values[name]
                metrics.add_row(Text(name, style="dim"), _value(value), Text(f"step {step}", style="dim"))
        head = Text.assemble(f"{self.experiment.name}  {self.experiment.id}  ", status_text(self.status))
        return Group(head, bars, metrics, *(Text(event, style="dim") for event in self.events[-3:]))

    def line(self) -> str:
        """The same in one line, for logs and pipes."""
        stage = self.progress.get("stage") or "–"
        numbers = "  ".join(f"{name} {_value(self.values[name][1])}" for name in _SHOWN if name in self.values)
        return f"{stage} {self.progress.get('step', 0)}/{self.progress.get('num_steps', 0)}  {numbers}"

    def _take_event(self, event: dict[str, Any]) -> str:
        if event["kind"] == "status":
            self.status = ExperimentStatus(event["detail"]["to"])
        if event["kind"] == "stage" and "stage" in event["detail"]:
            self.done[event["detail"]["stage"]] = event["detail"].get("steps_done", 0)
        text = f"{event['ts'][11:19]}  {event['message']}"
        self.events.append(text)
        return text

    def _steps(self, stage: str, planned: int) -> int:
        if stage in self.done:
            return planned
        return int(self.progress.get("step", 0)) if self.progress.get("stage") == stage else 0

    def _phase(self, stage: str) -> str:
        if stage in self.done:
            return "done"
        return str(self.progress.get("phase", "")) if self.progress.get("stage") == stage else ""


def watch(client: SedrayClient, experiment_id: str, console: Console) -> Experiment:
    """Follows the experiment until it has ended and returns it."""
    watcher = Watcher(client.experiment(experiment_id))
    messages = client.stream(experiment_id)
    if console.is_terminal:
        _watch_on_terminal(watcher, messages, console)
    else:
        _watch_in_lines(watcher, messages, console)
    return client.experiment(experiment_id)


def _watch_on_terminal(watcher: Watcher, messages: Iterable[StreamMessage], console: Console) -> None:
    with Live(watcher.render(), console=console, refresh_per_second=4) as live:
        for message in messages:
            watcher.take(message)
            live.update(watcher.render())


def _watch_in_lines(watcher: Watcher, messages: Iterable[StreamMessage], console: Console) -> None:
    printed_at = time.monotonic()
    for message in messages:
        if line := watcher.take(message):
            console.print(line, highlight=False, markup=False)
        elif watcher.values and time.monotonic() - printed_at >= _PLAIN_INTERVAL_S:
            console.print(watcher.line(), highlight=False, markup=False, soft_wrap=True)
            printed_at = time.monotonic()


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
