"""Which series belong into one picture. Titles and units come from the registry of metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from service.contract.evaluation import EvaluationSet
from service.contract.metric_names import describe_metric
from service.contract.objectives import ObjectiveSpec, needs_reference_model

_UNMARKED = "training"
"""Label of the series that has no mark of its own, beside one that was measured on held-out samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One picture with up to three series of the same unit."""

    title: str
    names: tuple[str, ...]

    @property
    def unit(self) -> str:
        """The unit of its vertical axis."""
        metric = describe_metric(self.names[0])
        return metric.unit if metric else ""

    @property
    def labels(self) -> list[str]:
        """What tells its series apart: their names without the parts that all of them share at either end."""
        if len(self.names) == 1:
            return [*self.names]
        parts = _without_shared_start([name.split("/") for name in self.names])
        parts = [part[::-1] for part in _without_shared_start([part[::-1] for part in parts])]
        return ["/".join(part) or _UNMARKED for part in parts]

    @property
    def meaning(self) -> str:
        """What the series mean, for the reader who hovers over the title."""
        described = [(name, describe_metric(name)) for name in self.names]
        return "; ".join(f"{name}: {metric.meaning}" for name, metric in described if metric)


SFT_CHARTS = (
    Chart(title="Loss and negative log-likelihood", names=("sft/loss", "sft/nll", "sft/eval/nll")),
    Chart(title="Token entropy", names=("sft/entropy", "sft/eval/entropy")),
    Chart(title="Token accuracy", names=("sft/mean_token_accuracy", "sft/eval/mean_token_accuracy")),
    Chart(
        title="Penalised tokens (SED)",
        names=("sft/sed/penalised_fraction", "sft/eval/sed/penalised_fraction"),
    ),
    Chart(title="Label probability by part (SED)", names=("sft/sed/penalised/prob", "sft/sed/kept/prob")),
    Chart(title="Entropy by part (SED)", names=("sft/sed/penalised/entropy", "sft/sed/kept/entropy")),
    Chart(
        title="Top-k mass (SED)",
        names=("sft/sed/topk_mass/p10", "sft/sed/topk_mass/p50", "sft/sed/topk_mass/p90"),
    ),
    Chart(title="Divergence from the reference", names=("sft/reference/kl",)),
    Chart(title="Tokens in the sets (EKSFT)", names=("sft/eksft/entropy_fraction", "sft/eksft/kl_fraction")),
)
RL_CHARTS = (
    Chart(title="Reward", names=("reward/mean", "reward/std")),
    Chart(
        title="Groups without signal",
        names=("group/frac_reward_zero_std", "group/frac_all_correct", "group/frac_all_wrong"),
    ),
    Chart(title="Policy entropy", names=("actor/entropy",)),
    Chart(title="Trainer over vLLM probability", names=("sampling/is_ratio_raw/mean",)),
    Chart(
        title="Where a step's time goes",
        names=("timing_s/step", "timing_s/gen", "timing_s/update_actor", "timing_s/update_weights"),
    ),
    Chart(title="Completion length", names=("completions/mean_length", "completions/max_length")),
)


def sft_charts(objective: ObjectiveSpec) -> tuple[Chart, ...]:
    """The charts of SFT whose metrics the objective writes."""
    is_written = {
        "sft/sed/": objective.type == "sed",
        "sft/eksft/": objective.type == "eksft",
        "sft/reference/": needs_reference_model(objective),
    }
    foreign = tuple(prefix for prefix, written in is_written.items() if not written)
    return tuple(chart for chart in SFT_CHARTS if not chart.names[0].startswith(foreign))


def chances_of_success(sets: Sequence[EvaluationSet]) -> tuple[Chart, ...]:
    """What sampling the sets between steps found, for up to three k each."""
    return tuple(
        Chart(
            title="Evaluation between the steps" if len(sets) == 1 else f"Evaluation between the steps: {one.name}",
            names=tuple(f"eval/{one.name}/pass@{k}" for k in one.pass_at_k[:3]),
        )
        for one in sets
    )


def _without_shared_start(parts: list[list[str]]) -> list[list[str]]:
    columns = zip(*parts, strict=False)
    num_shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return [part[num_shared:] for part in parts]
