"""Which series belong into one picture. Titles and units come from the registry of metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from service.contract.evaluation import EvaluationSet
from service.contract.metric_names import MetricStage, describe_metric
from service.contract.objectives import ObjectiveSpec, needs_reference_model
from service.contract.rewards import reward_part_names
from service.contract.stages import RlSpec

_UNMARKED = "training"
"""Label of the series that has no mark of its own, beside one that was measured on held-out samples."""
_MOST_PARTS = 8
"""A picture has so many colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One picture of some series of the same unit."""

    title: str
    names: tuple[str, ...]
    kind: Literal["lines", "stack"] = "lines"
    """`stack`: the first series is the whole, the others are its parts, one on top of the other."""
    is_core: bool = False
    """Shown while it has no values yet; the others appear with their first one."""

    @property
    def unit(self) -> str:
        """The unit of its vertical axis."""
        metric = describe_metric(self.names[0])
        return metric.unit if metric else ""

    @property
    def stage(self) -> MetricStage:
        """Whose steps stand below it."""
        metric = describe_metric(self.names[0])
        return metric.stage if metric else "any"

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
    Chart(title="Loss and negative log-likelihood", names=("sft/loss", "sft/nll", "sft/eval/nll"), is_core=True),
    Chart(title="Token entropy", names=("sft/entropy", "sft/eval/entropy"), is_core=True),
    Chart(title="Token accuracy", names=("sft/mean_token_accuracy", "sft/eval/mean_token_accuracy"), is_core=True),
    Chart(title="Gradient norm", names=("sft/grad_norm",)),
    Chart(title="Learning rate", names=("sft/learning_rate",)),
    Chart(title="Divergence from the reference", names=("sft/reference/kl",)),
    Chart(title="Tokens in the sets (EKSFT)", names=("sft/eksft/entropy_fraction", "sft/eksft/kl_fraction")),
)
SED_CHARTS = (
    Chart(
        title="Penalised tokens",
        names=("sft/sed/penalised_fraction", "sft/eval/sed/penalised_fraction"),
        is_core=True,
    ),
    Chart(title="Label probability by part", names=("sft/sed/penalised/prob", "sft/sed/kept/prob"), is_core=True),
    Chart(title="Entropy by part", names=("sft/sed/penalised/entropy", "sft/sed/kept/entropy"), is_core=True),
    Chart(title="Top-k mass", names=("sft/sed/topk_mass/p10", "sft/sed/topk_mass/p50", "sft/sed/topk_mass/p90")),
    Chart(title="Mean weight of the gradient", names=("sft/sed/mean_weight",)),
    Chart(title="Penalty", names=("sft/sed/extra_loss",)),
)
REWARD_CHARTS = (
    Chart(title="Reward", names=("reward/mean", "reward/std"), is_core=True),
    Chart(
        title="Groups without signal",
        names=("group/frac_reward_zero_std", "group/frac_all_correct", "group/frac_all_wrong"),
        is_core=True,
    ),
    Chart(title="Samples not judged", names=("reward/num_errors", "reward/num_timeouts", "reward/num_dropped")),
    Chart(title="Verifiers that disagree", names=("reward/audit/disagreement",)),
    Chart(title="Length penalty", names=("reward/overlong_penalty",)),
    Chart(
        title="Groups of dynamic sampling",
        names=(
            "dynamic_sampling/num_without_signal",
            "dynamic_sampling/num_replaced",
            "dynamic_sampling/num_unfilled",
        ),
    ),
)
POLICY_CHARTS = (
    Chart(title="Policy entropy", names=("actor/entropy",), is_core=True),
    Chart(
        title="Completion length",
        names=("completions/mean_length", "completions/min_length", "completions/max_length"),
        is_core=True,
    ),
    Chart(title="Cut at the length limit", names=("completions/clipped_ratio", "completions/masked_ratio")),
    Chart(title="Clipped tokens", names=("actor/clip_ratio/low", "actor/clip_ratio/high")),
    Chart(title="Divergence", names=("actor/ppo_kl", "actor/kl_loss")),
    Chart(title="Gradient norm", names=("actor/grad_norm",)),
    Chart(title="Learning rate", names=("actor/lr",)),
)
OFF_POLICY_CHARTS = (
    Chart(
        title="Trainer over vLLM probability",
        names=("sampling/is_ratio_raw/mean", "sampling/is_ratio_raw/min", "sampling/is_ratio_raw/max"),
        is_core=True,
    ),
    Chart(title="Log-prob gap to vLLM", names=("sampling/logp_difference/mean", "sampling/logp_difference/max")),
    Chart(
        title="Factor of the correction",
        names=("sampling/is_ratio/mean", "sampling/is_ratio/min", "sampling/is_ratio/max"),
    ),
    Chart(title="Tokens left out, and effective share", names=("sampling/masked_fraction", "sampling/ess")),
    Chart(title="Staleness", names=("async/staleness/mean", "async/staleness/max")),
    Chart(title="Drawn by several policies", names=("async/mixed_ratio",)),
    Chart(title="Groups made again: too old", names=("async/dropped_stale",)),
)
SYNC_PHASES = Chart(
    title="Where a step's time goes",
    names=("timing_s/step", "timing_s/gen", "timing_s/reward", "timing_s/update_actor", "timing_s/update_weights"),
    kind="stack",
    is_core=True,
)
ASYNC_PHASES = Chart(
    title="Where a step's time goes, as the trainer sees it",
    names=("timing_s/step", "timing_s/wait_for_rollouts", "timing_s/update_actor", "timing_s/update_weights"),
    kind="stack",
    is_core=True,
)
TIME_CHARTS = (
    Chart(
        title="Where a weight sync's time goes",
        names=(
            "timing_s/update_weights",
            "timing_s/weight_sync/pause",
            "timing_s/weight_sync/gather",
            "timing_s/weight_sync/transfer",
            "timing_s/weight_sync/load",
            "timing_s/weight_sync/verify",
        ),
        kind="stack",
    ),
    Chart(title="Idle", names=("timing_s/rollout_idle", "timing_s/trainer_idle")),
    Chart(title="Throughput", names=("perf/throughput",)),
    Chart(title="Engines", names=("engines/num_ready",)),
    Chart(title="Probe after a weight sync", names=("weight_sync/probe_logprob_abs_diff_max",)),
)
RL_CHARTS = (*REWARD_CHARTS, *POLICY_CHARTS, *OFF_POLICY_CHARTS, SYNC_PHASES, ASYNC_PHASES, *TIME_CHARTS)


def sft_charts(objective: ObjectiveSpec) -> tuple[Chart, ...]:
    """The charts of SFT whose metrics the objective writes; SED's own are in `SED_CHARTS`."""
    is_written = {
        "sft/eksft/": objective.type == "eksft",
        "sft/reference/": needs_reference_model(objective),
    }
    foreign = tuple(prefix for prefix, written in is_written.items() if not written)
    return tuple(chart for chart in SFT_CHARTS if not chart.names[0].startswith(foreign))


def reward_charts(rl: RlSpec) -> tuple[Chart, ...]:
    """With the parts of a combined reward in one picture."""
    parts = reward_part_names(rl.reward)
    if len(parts) < 2:
        return REWARD_CHARTS
    own = Chart(title="Parts of the reward", names=tuple(f"rewards/{part}/mean" for part in parts[:_MOST_PARTS]))
    return (REWARD_CHARTS[0], own, *REWARD_CHARTS[1:])


def time_charts(rl: RlSpec) -> tuple[Chart, ...]:
    """In step the phases follow each other; ahead of the trainer, generation goes on beside it."""
    return (SYNC_PHASES if rl.mode == "sync" else ASYNC_PHASES, *TIME_CHARTS)


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
