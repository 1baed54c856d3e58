"""Notices that a run stands still, says who it waits for, and does something about it.

    reports of progress ──> a phase takes factor x its median ──> stacks of driver and actors, culprit
                                                                     │
                      report   one event                             v
                      replace  the engine, or all trainer ranks: the run goes on as after a loss
                      fail     the attempt ends as `no_progress`

One incident, one event: nothing more is said before the run has moved again.
"""

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from service.contract.messages import MAX_DETAIL_CHARACTERS, RolloutSample, TokenView
from service.contract.stages import StageName
from service.contract.stall import StallSpec
from workers.activity.inspection import ActorState
from workers.pipeline.culprit import Culprit, find_culprit
from workers.pipeline.phase_times import PhaseTimes, Present
from workers.stages.roles import Reports

logger = logging.getLogger(__name__)

_POLL_S = 1.0
_STOP_S = 10.0
_ACTORS_SHOWN = 6
_PROCESSES_SHOWN = 2
_STACK_CHARACTERS = MAX_DETAIL_CHARACTERS // 2 // (_ACTORS_SHOWN * _PROCESSES_SHOWN + 1)
"""Of one process in the event; the log has all of them."""


class Stalled(Exception):
    """The run stands still, and the specification wants it to end then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """What can be done, by the kind of the culprit; each says whether it did."""

    inspect: Callable[[], list[ActorState]]
    """All actors of the attempt, on all machines."""
    replace_engine: Callable[[int, str], bool]
    """By number, with the cause."""
    replace_trainer: Callable[[str], bool]


class StallWatchdog:
    """`roles.Reports` that passes everything on and watches the progress; and a thread that looks every second."""

    def __init__(self, reports: Reports, spec: StallSpec, remedies: Remedies, *, poll_s: float = _POLL_S) -> None:
        self._reports, self._spec, self._remedies, self._poll_s = reports, spec, remedies, poll_s
        self._times = PhaseTimes()
        self._told: Present | None = None
        self._failure: Stalled | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stall-watchdog", daemon=True)

    def __enter__(self) -> "StallWatchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(_STOP_S)

    def check(self) -> None:
        """Raise Stalled if the run shall end."""
        if self._failure is not None:
            raise self._failure

    def points(self, step: int, values: Mapping[str, float]) -> None:
        """See `roles.Reports`."""
        self._reports.points(step, values)

    def rollouts(self, samples: Iterable[RolloutSample]) -> None:
        """See `roles.Reports`."""
        self._reports.rollouts(samples)

    def token_views(self, views: Iterable[TokenView]) -> None:
        """See `roles.Reports`."""
        self._reports.token_views(views)

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        """See `roles.Reports`."""
        self._reports.event(kind, message, detail)

    def settle(self, deadline_s: float) -> None:
        """See `roles.Reports`."""
        self._reports.settle(deadline_s)

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        """See `roles.Reports`; the run has moved."""
        with self._lock:
            self._times.begin((stage or "", phase), step, time.monotonic())
        self._reports.progress(stage, phase, step, num_steps)

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_s):
            try:
                self._look()
            except Exception:
                # Whatever keeps it from looking must not end the run that it watches.
                logger.exception("stall watchdog failed")

    def _look(self) -> None:
        with self._lock:
            present = self._times.overdue(time.monotonic(), factor=self._spec.factor, least_s=self._spec.least_s)
        if present is not None and present != self._told:
            self._told = present
            self._handle(present)

    def _handle(self, present: Present) -> None:
        states = self._remedies.inspect()
        culprit = find_culprit(states, time.time())
        for state in states:
            for process in state.processes:
                logger.warning(
                    "stacks of a stalled run",
                    extra={"actor": state.activity.actor, "pid": process.pid, "stacks": process.stacks},
                )
        with self._lock:
            moved = self._times.present != present
        done = "it has moved meanwhile" if moved else self._act(present, culprit)
        self._report(present, culprit, states, done)

    def _act(self, present: Present, culprit: Culprit | None) -> str:
        """What was done, in words."""
        cause = f"the run stands still at {' '.join(present.phase).strip()}"
        match self._spec.action:
            case "report":
                return "nothing was done"
            case "fail":
                self._failure = Stalled(f"{cause}, step {present.step}; {_named(culprit)}")
                return "the attempt ends"
            case "replace" if culprit is not None:
                return _replace(self._remedies, culprit, cause)
            case _:
                return "nothing was done, since no actor is at work"

    def _report(self, present: Present, culprit: Culprit | None, states: Sequence[ActorState], done: str) -> None:
        stage, phase = present.phase
        seconds = time.monotonic() - present.since_s
        with self._lock:
            usual_s = self._times.usual_s(present.phase)
        self._reports.event(
            "stalled",
            f"{phase} in stage {stage or '-'}, step {present.step}, takes {seconds:.0f} s where {usual_s or 0.0:.3g} s "
            f"are usual; {_named(culprit)}; {done}",
            {
                "stage": stage,
                "phase": phase,
                "step": present.step,
                "seconds": round(seconds, 3),
                "usual_seconds": usual_s,
                "culprit": culprit.actor if culprit else None,
                "action": done,
                "actors": [_shown(state) for state in _first(states, culprit)],
                "driver": _own_stacks()[:_STACK_CHARACTERS],
            },
        )


def _replace(remedies: Remedies, culprit: Culprit, cause: str) -> str:
    role, _, number = culprit.actor.rpartition("-")
    if role == "rollout":
        replaced = remedies.replace_engine(int(number), f"{cause}: {culprit.why}")
        return "it is being replaced" if replaced else "it had been replaced already"
    return "all trainer ranks are being replaced" if remedies.replace_trainer(cause) else "the trainer was gone already"


def _named(culprit: Culprit | None) -> str:
    return f"it waits for {culprit.actor}, {culprit.why}" if culprit else "no actor is at work"


def _first(states: Sequence[ActorState], culprit: Culprit | None) -> Sequence[ActorState]:
    """As many as an event may hold, the culprit before the others."""
    suspect = culprit.actor if culprit else None
    return sorted(states, key=lambda state: state.activity.actor != suspect)[:_ACTORS_SHOWN]


def _shown(state: ActorState) -> dict[str, Any]:
    return {
        "actor": state.activity.actor,
        "work": [f"{work.method} {work.subject}".strip() for work in state.activity.work],
        "busy_since": state.busy_since,
        "processes": [
            {
                "pid": process.pid,
                "name": process.name,
                "is_stopped": process.is_stopped,
                "stacks": process.stacks[:_STACK_CHARACTERS],
            }
            for process in state.processes[:_PROCESSES_SHOWN]
        ],
    }


def _own_stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame)[-6:])}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    )
