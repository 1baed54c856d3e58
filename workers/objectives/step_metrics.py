"""From sums over micro-batches to the metrics of an optimizer step.

Everything here is additive (sums, sizes of parts, histogram counts), so neither the split into micro-batches nor one
into ranks can change a metric.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from workers.objectives.base import ObjectiveOutput

NUM_SHARE_BINS = 1000
"""A quantile is right to within a bin's width, 0.001."""
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}

Value = TypeVar("Value")


def share_histogram(shares_N: Tensor) -> Tensor:
    """Counts of values in [0, 1] in `NUM_SHARE_BINS` equal bins, int64. Detached; 1 counts for the last bin."""
    bins_N = (shares_N.detach() * NUM_SHARE_BINS).long().clamp(0, NUM_SHARE_BINS - 1)
    return torch.bincount(bins_N, minlength=NUM_SHARE_BINS)


def share_quantile(counts: Tensor, quantile: float) -> float:
    """The value below which a share of the counted tokens lies, interpolated linearly within its bin."""
    cumulative = counts.double().cumsum(0)
    rank = quantile * cumulative[-1].item()
    index = min(int(torch.searchsorted(cumulative, rank)), len(counts) - 1)
    count = float(counts[index])
    below = float(cumulative[index]) - count
    return (index + ((rank - below) / count if count else 0.0)) / len(counts)


def merged(outputs: Sequence[ObjectiveOutput]) -> ObjectiveOutput:
    """The sums of several chunks as those of one."""
    return ObjectiveOutput(
        loss_sum=torch.stack([output.loss_sum for output in outputs]).sum(),
        metric_sums=_added((output.metric_sums for output in outputs), torch.add),
        part_sums=_added(
            (output.part_sums for output in outputs), lambda one, other: (one[0] + other[0], one[1] + other[1])
        ),
        share_histograms=_added((output.share_histograms for output in outputs), torch.add),
    )


def token_means(outputs: Sequence[ObjectiveOutput], num_tokens: int) -> dict[str, float]:
    """The metrics of a step from its micro-batches; waits for the device once per kind of metric.

    Sums become means over `num_tokens`, the label tokens of the step; means over a part are left out where the part is
    empty; quantiles come from the step's histogram.
    """
    whole = merged(outputs)
    sums = torch.stack(list(whole.metric_sums.values())) / num_tokens
    values = dict(zip(whole.metric_sums, sums.tolist(), strict=True))
    if whole.part_sums:
        pairs = torch.stack([torch.stack(pair) for pair in whole.part_sums.values()]).tolist()
        named = zip(whole.part_sums, pairs, strict=True)
        values |= {name: part_sum / size for name, (part_sum, size) in named if size}
    for prefix, counts in whole.share_histograms.items():
        on_host = counts.cpu()
        values |= {f"{prefix}/{name}": share_quantile(on_host, quantile) for name, quantile in QUANTILES.items()}
    return values


def _added(tables: Iterable[Mapping[str, Value]], add: Callable[[Value, Value], Value]) -> dict[str, Value]:
    combined: dict[str, Value] = {}
    for table in tables:
        for name, value in table.items():
            combined[name] = add(combined[name], value) if name in combined else value
    return combined
