"""Importance weights between the rollout engine, which sampled, and the trainer, whose distribution is a little other.

The ratio of a token is trainer before the step's first update over engine. Truncated per token this is TIS, masked per
token IcePop (Ring-1T, arXiv 2510.18855). A sequence's ratio by `sum` of its log-ratios is the exact one; by `mean` it
is that of GSPO (arXiv 2507.18071), which does not grow with the length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.contract.rl import RolloutCorrection
from workers.objectives.policy_gradient import over_sequences


def correction_weights(
    spec: RolloutCorrection, trainer_logprobs_N: Tensor, rollout_logprobs_N: Tensor, lengths: Sequence[int]
) -> Tensor | None:
    """The factor of each token's policy loss, [N], detached; None for mode `none`.

    The tokens are whole sequences end to end, of the given lengths.
    """
    if spec.mode == "none":
        return None
    log_ratio_N = trainer_logprobs_N.detach().double() - rollout_logprobs_N.double()
    if spec.mode.startswith("sequence_"):
        log_ratio_N = over_sequences(log_ratio_N, lengths, spec.aggregate)
    # float64 ends at e^709; so far beyond `max` the size no longer matters.
    ratio_N = log_ratio_N.clamp(max=700.0).exp()
    if spec.mode.endswith("_truncate"):
        ratio_N = ratio_N.clamp(max=spec.max)
    else:
        ratio_N = ratio_N.where((ratio_N >= spec.min) & (ratio_N <= spec.max), 0.0)
    return ratio_N.to(trainer_logprobs_N.dtype)


def correction_metrics(weights_N: Tensor) -> dict[str, float]:
    """`sampling/is_ratio/*` of the weights as applied, the effective share of the tokens, and that of the masked ones.

    The effective share is (sum w)² / (N sum w²): 1 for equal weights, 1/N if one token has all, 0 if none has any.
    """
    precise_N = weights_N.double()
    squares = precise_N.square().sum()
    values = {
        "sampling/is_ratio/mean": precise_N.mean(),
        "sampling/is_ratio/min": precise_N.min(),
        "sampling/is_ratio/max": precise_N.max(),
        "sampling/ess": precise_N.sum().square()
        / (squares * len(precise_N)).clamp_min(torch.finfo(torch.float64).tiny),
        "sampling/masked_fraction": (precise_N == 0).double().mean(),
    }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
