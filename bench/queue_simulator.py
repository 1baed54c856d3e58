"""A cluster over time, in which the service's own decision decides every minute who starts. No clock, no Ray, no table.

Experiments take what they really take, which is less than they asked for. Whoever gives way goes on later where it
stopped. Use is charged as the service charges it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from bench.queue_workload import Job
from service.scheduler.decision import Decisions, Situation, decide
from service.scheduler.decision.facts import (
    Account,
    Cluster,
    HeldReservation,
    Node,
    Policy,
    QueueEntry,
    RunningAttempt,
    Shares,
)
from service.scheduler.decision.resources import Placement
from service.scheduler.decision.usage import decayed, demand_rate, entry_penalty, used

DEFAULT_POLICY = Policy()
EQUAL_SHARES = Shares()
_STOP_S = 60.0
"""What an experiment that gives way needs until its resources are free."""


@dataclass(slots=True, kw_only=True)
class Life:
    """What became of one experiment."""

    job: Job
    left_s: float
    """What it still has to run."""
    first_start: float | None = None
    ended_at: float | None = None
    num_preempted: int = 0


@dataclass(slots=True, kw_only=True)
class Record:
    """What is counted while the simulation runs."""

    lives: dict[str, Life]
    decide_s: list[tuple[int, float]] = field(default_factory=list)
    """Experiments in the queue, and the seconds that one decision about them took."""
    done: list[tuple[float, float]] = field(default_factory=list)
    """At each pass: the moment, and the GPU-seconds used until then."""


class Simulator:
    """One run from the first submission to the last end."""

    def __init__(
        self,
        jobs: Sequence[Job],
        nodes: tuple[Node, ...],
        *,
        policy: Policy = DEFAULT_POLICY,
        shares: Shares = EQUAL_SHARES,
        step_s: float = 60.0,
    ) -> None:
        self.record = Record(lives={job.entry.id: Life(job=job, left_s=job.runtime_s) for job in jobs})
        self._jobs = list(jobs)
        self._next_job = 0
        self._nodes = nodes
        self._policy = policy
        self._shares = shares
        self._step_s = step_s
        self._queue: dict[str, QueueEntry] = {}
        self._running: dict[str, RunningAttempt] = {}
        self._ends: list[tuple[float, str, int]] = []
        self._epoch: dict[str, int] = {}
        """By experiment, how often it was stopped: an end that was planned before does not count any more."""
        self._usage: dict[Account, tuple[float, float]] = {}
        self._reserved: tuple[HeldReservation, ...] = ()
        self._used_until = 0.0
        self._gpu_seconds = 0.0
        self.now = 0.0

    def run(self, until: float | None = None) -> Record:
        """To the end of all experiments, or to a moment."""
        while (self._next_job < len(self._jobs) or self._queue or self._running) and (
            until is None or self.now < until
        ):
            self._advance()
            if self._queue:
                self._pass()
            self.record.done.append((self.now, self._gpu_seconds))
        return self.record

    def _advance(self) -> None:
        """To the next step at which something may have changed."""
        moments = [self._jobs[self._next_job].entry.queued_at] if self._next_job < len(self._jobs) else []
        moments += [self._ends[0][0]] if self._ends else []
        first = min(moments, default=self.now)
        steps = max(int((first - self.now) // self._step_s), 0) + 1
        self.now += steps * self._step_s
        self._end_due()
        while self._next_job < len(self._jobs) and self._jobs[self._next_job].entry.queued_at <= self.now:
            entry = self._jobs[self._next_job].entry
            self._queue[entry.id] = entry
            self._next_job += 1

    def _end_due(self) -> None:
        while self._ends and self._ends[0][0] <= self.now:
            at, name, epoch = heappop(self._ends)
            if self._epoch.get(name, 0) == epoch and name in self._running:
                self._release(name, at)

    def _release(self, name: str, at: float) -> None:
        attempt, life = self._running.pop(name), self.record.lives[name]
        ran_s = at - attempt.started_at
        self._gpu_seconds += life.job.num_gpus * ran_s
        rate = demand_rate(life.job.entry.demand, self._policy)
        value, as_of = self._usage.get(attempt.account, (0.0, at))
        value = decayed(value, at - as_of, self._policy.half_life_s) + used(rate, ran_s, self._policy.half_life_s)
        self._usage[attempt.account] = (value, max(at, as_of))
        life.left_s -= ran_s
        if attempt.is_preempted and life.left_s > 1.0:
            self._queue[name] = life.job.entry
            self._epoch[name] = self._epoch.get(name, 0) + 1
        else:
            life.ended_at = at

    def _pass(self) -> None:
        situation = Situation(
            now=self.now,
            queue=list(self._queue.values()),
            running=list(self._running.values()),
            cluster=Cluster(nodes=self._nodes),
            usage=self._present_usage(),
            shares=self._shares,
            reserved=self._reserved,
            policy=self._policy,
        )
        began = time.process_time()
        decisions = decide(situation)
        self.record.decide_s.append((len(situation.queue), time.process_time() - began))
        self._apply(decisions)

    def _apply(self, decisions: Decisions) -> None:
        for admission in decisions.admissions:
            self._start(self._queue.pop(admission.id), admission.placement)
        for preemption in decisions.preemptions:
            name = preemption.attempt_id
            self._running[name] = replace(self._running[name], is_preempted=True)
            self._epoch[name] = self._epoch.get(name, 0) + 1
            self.record.lives[name].num_preempted += 1
            stops_at = min(self.now + _STOP_S, self._running[name].started_at + self.record.lives[name].left_s)
            heappush(self._ends, (stops_at, name, self._epoch[name]))
        self._reserved = tuple(
            HeldReservation(experiment_id=one.id, placement=one.placement) for one in decisions.reservations
        )

    def _start(self, entry: QueueEntry, placement: Placement) -> None:
        life = self.record.lives[entry.id]
        life.first_start = self.now if life.first_start is None else life.first_start
        self._running[entry.id] = RunningAttempt(
            id=entry.id,
            experiment_id=entry.id,
            project=entry.project,
            user=entry.user,
            priority_rank=entry.priority_rank,
            placement=placement,
            started_at=self.now,
            ends_at=self.now + entry.max_runtime_s,
            preemptible=life.job.preemptible,
        )
        heappush(self._ends, (self.now + life.left_s, entry.id, self._epoch.get(entry.id, 0)))

    def _present_usage(self) -> dict[Account, float]:
        usage = {
            account: decayed(value, self.now - as_of, self._policy.half_life_s)
            for account, (value, as_of) in self._usage.items()
        }
        for name, attempt in self._running.items():
            entry = self.record.lives[name].job.entry
            rate = demand_rate(entry.demand, self._policy)
            real = used(rate, self.now - attempt.started_at, self._policy.half_life_s)
            promised = entry_penalty(rate, entry.max_runtime_s, self._policy)
            usage[attempt.account] = usage.get(attempt.account, 0.0) + max(real, promised)
        return usage
