"""Which checkpoints of the supervised stage are the best by a metric on the held-out samples."""

import math
from collections.abc import Iterable
from typing import Any

from service.contract.stages import SftSpec
from workers.actors.trainer_results import RankedCheckpoint
from workers.checkpoints import checkpoint_name


class BestCheckpoints:
    """The best `num_best_checkpoints`. Each checkpoint carries the ranking so far, so a resumed run goes on with it."""

    def __init__(self, spec: SftSpec, carried: Iterable[tuple[int, float]] = ()) -> None:
        """`carried` is what `as_facts` gave to the checkpoint that was resumed."""
        self._num_kept = spec.num_best_checkpoints
        self._metric = spec.best_metric
        # The smaller the better, or the other way round.
        self._sign = 1.0 if spec.best_metric == "sft/eval/nll" else -1.0
        self.ranking = tuple(RankedCheckpoint(step=step, value=value) for step, value in carried)
        """The best first; of equals the earlier one."""

    @property
    def names(self) -> frozenset[str]:
        """Of the checkpoints that must be kept."""
        return frozenset(checkpoint_name(ranked.step) for ranked in self.ranking)

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Rank the checkpoint after `step`, which is about to be written. A metric that isn't finite is never good."""
        value = metrics[self._metric]
        if math.isfinite(value):
            found = sorted(
                [*self.ranking, RankedCheckpoint(step=step, value=value)],
                key=lambda ranked: (self._sign * ranked.value, ranked.step),
            )
            self.ranking = tuple(found[: self._num_kept])

    def as_facts(self) -> list[list[Any]]:
        """For a checkpoint's manifest: [step, value] each."""
        return [[ranked.step, ranked.value] for ranked in self.ranking]
