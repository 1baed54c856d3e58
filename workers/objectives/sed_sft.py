"""SED-SFT (arXiv 2602.07464): cross entropy plus a penalty that keeps flexible tokens away from certainty.

    loss = -log p + lambda * M * (p - 1/2)^2,     M = 1 where the top-k mass P < tau (strict), else 0

p is the label's probability. No gradient flows through M, the top-k mass or tau. The gradient is that of cross entropy
times w = 1 - lambda * M * p * (2 p - 1), which is at most 1 + lambda / 8 and, for lambda <= 1, never negative.

Where paper and code disagree this follows the paper, whose settings are the preset `paper`. Differences from the
authors' code: one k serves calibration and loss (theirs calibrates with 10, trains with 2 unless told otherwise); all
statistics are float32 at least (theirs have the logits' dtype, so that tau lies on a coarse grid with many ties); tau
comes from response tokens only (theirs from prompts too), as an interpolated quantile, once for all ranks, and is never
measured again; the denominator is the step's label tokens (theirs is multiplied by the number of ranks once more); and
`mask: none` really is the ablation without the mask, which their script cannot run.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.objectives.base import ObjectiveOutput, StatisticsNeeds, TokenStatistics, WeightedObjective, total
from workers.objectives.cross_entropy import supervised_output
from workers.objectives.step_metrics import share_histogram

NUM_HISTOGRAM_BINS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectivePenalty(WeightedObjective):
    """The objective with its threshold fixed. With `lambda_` 0 or `tau` 0 it equals `CrossEntropy` bit for bit."""

    lambda_: float
    top_k: int
    tau: float
    """Infinity penalises every token: the paper's ablation without the mask."""

    @property
    def needs(self) -> StatisticsNeeds:
        """The top-k mass, also without a mask: its quantiles are reported."""
        return StatisticsNeeds(top_k=self.top_k)

    def __call__(self, statistics: TokenStatistics) -> ObjectiveOutput:
        """Sums over the N label tokens; needs the statistics' top-k mass."""
        topk_mass_N = statistics.topk_mass_N
        assert topk_mass_N is not None, "statistics were made without top_k"
        penalised_N = topk_mass_N < self.tau
        scale_N = self.lambda_ * penalised_N.to(statistics.nll_N.dtype)
        # (p - 1/2)^2 and not p * (p - 1) + 1/4, which cancels near 1/2. Through nll_N only: what reaches it is w.
        prob_N = torch.exp(-statistics.nll_N)
        extra_N = scale_N * (prob_N - 0.5).square()
        weight_N = 1.0 - scale_N * prob_N.detach() * (2.0 * prob_N.detach() - 1.0)
        return supervised_output(
            statistics.nll_N + extra_N,
            statistics,
            own_sums={
                "sft/sed/penalised_fraction": total(penalised_N),
                "sft/sed/mean_weight": total(weight_N),
                "sft/sed/extra_loss": total(extra_N),
            },
            part_sums={
                f"sft/sed/{part}/{name}": (total(values_N * part_N), total(part_N))
                for part, part_N in (("penalised", penalised_N), ("kept", ~penalised_N))
                for name, values_N in (("prob", prob_N), ("entropy", statistics.entropy_N))
            },
            share_histograms={"sft/sed/topk_mass": share_histogram(topk_mass_N)},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TauCalibration:
    """A threshold and the distribution that it was taken from."""

    tau: float
    num_tokens: int
    histogram_counts: tuple[int, ...]
    """Top-k masses in 50 bins of equal width over [0, 1]."""


def calibrate_tau(topk_masses: Iterable[Tensor], mask_ratio: float) -> TauCalibration:
    """The (1 - mask_ratio) quantile of the top-k masses of label tokens, interpolated linearly, rounded to float32.

    `mask_ratio` is the share left without a penalty. Penalised is strictly below tau, so on the calibration tokens a
    ratio of 1 gives the smallest mass and penalises none, and a ratio of 0 gives the largest and penalises all but the
    tokens that reach it; the mask `none` penalises them too.

    Raises ValueError if there is no token.
    """
    masses_N = torch.cat([mass_N.detach().float().cpu() for mass_N in topk_masses] or [torch.empty(0)]).numpy()
    if masses_N.size == 0:
        raise ValueError("tau cannot be calibrated on no tokens: the calibration samples have no label token")
    # Not torch.quantile, which refuses more than 16 million values.
    tau = np.float32(np.quantile(masses_N.astype(np.float64), 1.0 - mask_ratio))
    # Rounding may lift a sum of probabilities an ulp above 1.
    counts, _ = np.histogram(np.minimum(masses_N, 1.0), bins=NUM_HISTOGRAM_BINS, range=(0.0, 1.0))
    return TauCalibration(tau=float(tau), num_tokens=int(masses_N.size), histogram_counts=tuple(counts.tolist()))
