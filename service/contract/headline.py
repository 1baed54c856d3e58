"""One number that says most of what an experiment came to so far, for lists."""

from collections.abc import Mapping
from re import fullmatch

from service.contract.metric_names import describe_metric
from service.contract.stages import StageName
from service.contract.strict_model import WireModel

_METRICS: tuple[tuple[StageName, tuple[str, ...]], ...] = (
    ("evaluate_after_rl", (r"eval/[^/]+/pass@\d+", r"eval/[^/]+/avg@\d+")),
    ("rl", ("reward/mean",)),
    ("evaluate_after_sft", (r"eval/[^/]+/pass@\d+", r"eval/[^/]+/avg@\d+")),
    ("sft", ("sft/eval/nll", "sft/loss")),
)
"""The latest stage first; of each the metrics that say most, as patterns."""


class Headline(WireModel):
    """The final value of one metric of one stage."""

    stage: StageName
    name: str
    """Of the metric."""
    value: float
    unit: str
    """As the registry has it."""


def headline_of(metrics_by_stage: Mapping[StageName, Mapping[str, float]]) -> Headline | None:
    """Of the finished stages with their final values; None while none of them says anything.

    Of pass@k the smallest k, of several sets the first by name.
    """
    for stage, patterns in _METRICS:
        metrics = metrics_by_stage.get(stage, {})
        for pattern in patterns:
            names = [name for name in metrics if fullmatch(pattern, name)]
            if names:
                name = min(names, key=_by_set_and_k)
                described = describe_metric(name)
                return Headline(stage=stage, name=name, value=metrics[name], unit=described.unit if described else "")
    return None


def _by_set_and_k(name: str) -> tuple[str, int]:
    head, _, k = name.partition("@")
    return head, int(k) if k else 0
