"""One attempt without a service: the driver of a real one, with Ray, trainer actors and vLLM of its own.

Only what the driver would tell the service is caught here, by a `QuietReporter` of the benchmark.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from pydantic import JsonValue

from service.contract.messages import LentEngine, RolloutSample, StageResult, StartReply, TokenView
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from tests.workers.ray_head import ray_environment, ray_head
from workers.reporter.give_way import GiveWay

logger = logging.getLogger(__name__)


class QuietReporter:
    """What a driver asks of its reporter; keeps nothing, and nobody asks the run to stop or lends it anything."""

    def __init__(self) -> None:
        self.give_way = GiveWay()
        self.on_lent_engines: Callable[[Sequence[LentEngine]], None] | None = None

    def points(self, step: int, values: Mapping[str, float]) -> None:
        """See `roles.Reports`."""

    def rollouts(self, samples: Iterable[RolloutSample]) -> None:
        """See `roles.Reports`."""

    def token_views(self, views: Iterable[TokenView]) -> None:
        """See `roles.Reports`."""

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        """An engine that was replaced, say, would spoil a figure."""
        logger.warning("%s: %s", kind, message)

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        """See `roles.Reports`."""

    def stage_result(self, result: StageResult) -> None:
        """See `workers.reporter.reporter.Reporter`."""

    def settle(self, deadline_s: float) -> None:
        """Nothing is under way."""


class _NoInterrupts:
    """Nobody cancels a benchmark."""

    def check(self) -> None:
        """Go on."""

    def listen(self) -> None:
        """There is nothing to hear."""


def run_attempt(spec: ExperimentSpec, output_dir: str, reporter: QuietReporter, *, name: str = "bench") -> None:
    """All stages of a specification, from the first to the last, or until the reporter raises."""
    with ray_head(math.ceil(spec.resources.num_cpus)) as address:
        os.environ.update(ray_environment(), RAY_ADDRESS=address)
        from workers.pipeline.driver import drive

        orders = StartReply(
            experiment_id="bench",
            attempt_id=f"{name}-{os.getpid()}",
            attempt_number=1,
            spec=spec,
            output_dir=output_dir,
            completed_stages=[],
            report_interval_s=60.0,
        )
        drive(orders, cast(Any, reporter), cast(Any, _NoInterrupts()))
