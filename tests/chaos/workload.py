"""What the chaos test runs instead of a trainer: the driver's own session around steps of a tenth of a second.

Its one actor adds up numbers, so that every value depends on all steps before it; the sum after some steps is its
checkpoint, written once the service has the points of these steps. Who goes on from a wrong place, or twice from one,
leaves other values.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.contract.messages import StageResult, StartReply
from service.contract.status import EndReason
from workers.log_capture import configure_logging
from workers.pipeline.interrupts import Interrupts
from workers.pipeline.session import Drive, ReasonOf, run_session
from workers.reporter.reporter import Reporter
from workers.settings import WorkerSettings

METRIC = "sft/loss"
STEPS_PER_EPOCH = 10
SAVE_STEPS = 5
STEP_S = 0.1
_ANSWER_S = 30.0
_DELIVERY_S = 120.0


def value_after(seed: int, step: int) -> float:
    """What a run must have measured after a step."""
    return sum(seed * k for k in range(1, step + 1)) / 1000


def drive(orders: StartReply, reporter: Reporter, interrupts: Interrupts) -> list[StageResult]:
    """All steps that the checkpoint lacks."""
    if orders.completed_stages:
        return orders.completed_stages
    num_steps = STEPS_PER_EPOCH * orders.spec.sft.num_epochs if orders.spec.sft else 0
    began = datetime.now(UTC)
    checkpoint = Path(orders.output_dir) / "chaos.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "total": 0}
    with _actor(orders, interrupts, state["total"]) as add:
        for step in range(state["step"] + 1, num_steps + 1):
            reporter.progress("sft", "training", step - 1, num_steps)
            total = add(orders.spec.seed * step)
            reporter.points(step, {METRIC: total / 1000})
            print(f"attempt {orders.attempt_number} step {step}", flush=True)
            interrupts.check()
            if step % SAVE_STEPS == 0:
                _save(checkpoint, {"step": step, "total": total}, reporter, interrupts)
            time.sleep(STEP_S)
    ended, metrics = datetime.now(UTC), {METRIC: value_after(orders.spec.seed, num_steps)}
    result = StageResult(
        stage="sft",
        started_at=began,
        finished_at=ended,
        duration_s=(ended - began).total_seconds(),
        steps_done=num_steps,
        steps_planned=num_steps,
        metrics=metrics,
    )
    reporter.stage_result(result)
    return [result]


@contextmanager
def _actor(orders: StartReply, interrupts: Interrupts, total: int) -> Iterator[Any]:
    import ray

    ray.init(address="auto", namespace=f"sedray-{orders.attempt_id}", log_to_driver=False)
    interrupts.listen()
    adder = ray.remote(Adder).options(num_cpus=1).remote(total)
    try:
        yield lambda number: ray.get(adder.add.remote(number), timeout=_ANSWER_S)
    finally:
        ray.shutdown()
        interrupts.listen()


class Adder:
    """Holds the sum so far."""

    def __init__(self, total: int) -> None:
        self._total = total

    def add(self, number: int) -> int:
        """The sum with one number more."""
        self._total += number
        return self._total


def _save(checkpoint: Path, state: dict[str, int], reporter: Reporter, interrupts: Interrupts) -> None:
    # A successor begins behind it: what these steps measured has to be told before.
    assert reporter.deliver(_DELIVERY_S, interrupts.check), "the service was away for too long"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    beside = checkpoint.with_suffix(f".{time.time_ns()}")
    beside.write_text(json.dumps(state))
    beside.replace(checkpoint)


def reason_of(error: BaseException) -> EndReason:
    """Ray's own errors are the infrastructure's; everything else is this file's."""
    from ray.exceptions import RayError

    return EndReason.ACTOR_DIED if isinstance(error, (RayError, ConnectionError)) else EndReason.STAGE_FAILED


def _load() -> tuple[Drive, ReasonOf]:
    return drive, reason_of


if __name__ == "__main__":
    configure_logging()
    given = WorkerSettings()
    sys.exit(run_session(given, given.token(), _load))
