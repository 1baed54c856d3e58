"""Everything is killed at random while experiments run: each ends once, with the right result, and leaves nothing.

The gate runs a few experiments. By hand, for ten minutes: `python -m tests.chaos --experiments 50 --seed 3`.
"""

import os
import random
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from api.client import ProblemReply, ServiceUnreachable
from api.schemas import Experiment
from service.contract.status import ExperimentStatus
from service.storage.database import libpq_url
from tests.acceptance.stack_under_test import REPOSITORY, Stack, small_spec, start_stack, stop_stack, wait_until
from tests.chaos.monkey import ACTOR, DRIVER, WEIGHTS, Monkey, ours
from tests.chaos.workload import METRIC, STEPS_PER_EPOCH, value_after

NUM_EXPERIMENTS = int(os.environ.get("SEDRAY_CHAOS_EXPERIMENTS", "6"))
SUBMIT_EVERY_S = 8.0
CHAOS_S = NUM_EXPERIMENTS * SUBMIT_EVERY_S
SEED = int(os.environ.get("SEDRAY_CHAOS_SEED", "1"))
NUM_EPOCHS = 3
SETTLE_S = 240.0 + 20.0 * NUM_EXPERIMENTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * CHAOS_S + SETTLE_S + 240),
]

DEADLINES = {
    "SEDRAY_TICK_S": "0.5",
    "SEDRAY_RECONCILE_S": "1",
    "SEDRAY_HEARTBEAT_LEASE_S": "15",
    "SEDRAY_START_DEADLINE_S": "60",
    "SEDRAY_CANCEL_GRACE_S": "3",
    "SEDRAY_STOP_WAIT_S": "2",
    "SEDRAY_REPORT_INTERVAL_S": "0.5",
    "SEDRAY_UPKEEP_S": "3",
}


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="sedray-chaos-") as folder:
        interpreter = Path(folder) / "python"
        interpreter.write_text(
            "#!/bin/sh\n"
            f'if [ "$2" = workers.pipeline ]; then exec {sys.executable} -m tests.chaos.workload; fi\n'
            f'exec {sys.executable} "$@"\n'
        )
        interpreter.chmod(interpreter.stat().st_mode | stat.S_IXUSR)
        for name, value in {**DEADLINES, "SEDRAY_WORKER_PYTHON": str(interpreter)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
        stack = start_stack(Path(folder) / "data")
        yield stack
        assert stop_stack(stack) == []


class Crowd:
    """People: they submit, repeat what was not answered, and once change their mind."""

    def __init__(self, stack: Stack, environment: dict[str, str]) -> None:
        self._stack = stack
        self._waiting = [f"chaos-{number}" for number in range(1, NUM_EXPERIMENTS + 1)]
        self._next_at = 0.0
        self._random = random.Random(SEED)
        self._database = libpq_url(environment["SEDRAY_DATABASE_URL"])
        self.ids: dict[str, str] = {}
        self.cancelled: str | None = None

    def act(self) -> None:
        """Something small; what the service does not answer is done again later."""
        try:
            if self._waiting and time.monotonic() > self._next_at:
                self._submit(self._waiting[0])
                self._waiting.pop(0)
                self._next_at = time.monotonic() + self._random.uniform(0.5, 1.5) * SUBMIT_EVERY_S
            elif self.cancelled is None and len(self.ids) == 2:
                chosen = self.ids["chaos-2"]
                self._stack.client.cancel(chosen)
                self.cancelled = chosen
        except (ServiceUnreachable, ProblemReply):
            pass
        self._pass_time()

    def submit_rest(self) -> None:
        """What is left."""
        while self._waiting:
            wait_until(lambda: self._tried(self._waiting[0]), what="an answer to a submission", deadline_s=60)
            self._waiting.pop(0)

    def ended(self) -> list[Experiment] | None:
        """All of them, once the last one is over and let go of."""
        self._pass_time()
        try:
            found = [self._stack.client.experiment(experiment_id) for experiment_id in self.ids.values()]
        except ServiceUnreachable:
            return None
        over = all(one.status.is_terminal and all(two.released_at for two in one.attempts) for one in found)
        return found if over else None

    def _tried(self, name: str) -> bool:
        try:
            self._submit(name)
        except ServiceUnreachable:
            return False
        return True

    def _submit(self, name: str) -> None:
        sft = {**small_spec()["sft"], "num_epochs": NUM_EPOCHS}
        resources = {"trainer": {"num_cpus": 1}}
        spec = small_spec(
            name=name, seed=int(name[6:]), rl=None, evaluation=None, sft=sft, max_retries=20, resources=resources
        )
        self.ids[name] = self._stack.client.submit(spec, idempotency_key=name).id

    def _pass_time(self) -> None:
        """Nobody waits half an hour here for the end of a back-off."""
        with psycopg.connect(self._database, autocommit=True) as connection:
            connection.execute("UPDATE experiments SET not_before = NULL WHERE status = 'queued'")


def test_whatever_is_killed_each_experiment_ends_once_and_right(stack: Stack) -> None:
    began = time.monotonic()
    monkey = Monkey(stack, SEED, stack.data.parent / "standby.log")
    try:
        crowd = Crowd(stack, monkey.environment)
        crowd.act()
        monkey.rage(CHAOS_S, crowd.act)
        crowd.submit_rest()
        found = wait_until(crowd.ended, what="the end of all experiments", deadline_s=SETTLE_S)
    finally:
        monkey.stop()
    attempts = [len(one.attempts) for one in found]
    print(f"killed: {dict(monkey.killed)}; attempts: {attempts}; {time.monotonic() - began:.0f} s")
    assert set(monkey.killed) == set(WEIGHTS)
    for experiment in found:
        assert_ended_once(stack, experiment, cancelled=experiment.id == crowd.cancelled)
        if experiment.status is ExperimentStatus.SUCCEEDED:
            assert_right(stack, experiment)
    assert ours(DRIVER) + ours(ACTOR) == [], "something of an ended attempt is alive"


def assert_ended_once(stack: Stack, experiment: Experiment, *, cancelled: bool) -> None:
    may_be = {ExperimentStatus.SUCCEEDED, ExperimentStatus.CANCELLED} if cancelled else {ExperimentStatus.SUCCEEDED}
    assert experiment.status in may_be, f"{experiment.status}: {experiment.message}"
    ends = [
        event
        for event in stack.client.events(experiment.id).items
        if event.kind == "status" and ExperimentStatus(event.detail["to"]).is_terminal
    ]
    assert len(ends) == 1
    for before, after in zip(experiment.attempts, experiment.attempts[1:], strict=False):
        assert before.released_at is not None and before.released_at <= after.created_at, "two attempts at once"


def assert_right(stack: Stack, experiment: Experiment) -> None:
    num_steps, seed = STEPS_PER_EPOCH * NUM_EPOCHS, experiment.spec.seed
    [series] = stack.client.metrics(experiment.id, [METRIC], max_points=10_000).series
    measured = [(point.step, point.value) for point in series.points]
    assert measured == [(step, value_after(seed, step)) for step in range(1, num_steps + 1)]
    [result] = experiment.stage_results
    assert result.metrics[METRIC] == value_after(seed, num_steps)
    lines = [line.text for line in stack.client.logs(experiment.id, limit=2000).items]
    told = {line.partition(" step ")[2] for line in lines if line.startswith("attempt ")}
    assert told >= {str(step) for step in range(1, num_steps + 1)}
