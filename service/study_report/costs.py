"""What a study took: device-seconds by phase, tokens, and what was wasted, by arm and in all.

Two views. *Phases* are those of the results that an arm rests on, each stage once however many runs share it, at the
devices that one run holds: what the arm would cost alone. *Held* is what the attempts of the arm's own runs held from
their admission on, whichever arm the shared stages then served; the sum over arms is what the study has used.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from service.contract.status import ExperimentStatus
from service.contract.study_report import ArmCost, PhaseCost
from service.study_report.facts import AttemptFacts, RunFacts, StageFacts, StepSeries
from service.study_report.main_table import by_arm

ALL = "all"
_PHASE_OF = {"sft": "sft", "rl": "rl"}
_EVALUATION = "evaluation"
RL_PARTS = {
    "rl: generation": "timing_s/gen",
    "rl: training": "timing_s/update_actor",
    "rl: weight sync": "timing_s/update_weights",
}
LENGTHS = "completions/mean_length"
GEN_BATCHES = "dynamic_sampling/num_gen_batches"
_UNUSED = (ExperimentStatus.FAILED, ExperimentStatus.CANCELLED)


def arm_costs(runs: Sequence[RunFacts]) -> list[ArmCost]:
    """One for each arm, and the last for all of them; all runs count, excluded ones too."""
    costs = [_cost(arm, members) for arm, members in by_arm(runs).items()]
    return [*costs, _cost(ALL, runs)] if runs else []


def _cost(arm: str, runs: Sequence[RunFacts]) -> ArmCost:
    stages = _distinct_stages(runs)
    held = [attempt for run in runs for attempt in run.attempts]
    wasted = [pair for run in runs for pair in _wasted(run)]
    return ArmCost(
        arm=arm,
        num_runs=len(runs),
        phases=_phases(stages, runs),
        held_gpu_s=sum(attempt.held_s * attempt.num_gpus for attempt in held),
        held_cpu_s=sum(attempt.held_s * attempt.num_cpus for attempt in held),
        wasted_gpu_s=sum(seconds * attempt.num_gpus for seconds, attempt in wasted),
        wasted_cpu_s=sum(seconds * attempt.num_cpus for seconds, attempt in wasted),
        sft_tokens_trained=_tokens(stages, "sft"),
        rl_tokens_trained=_tokens(stages, "rl"),
        rl_tokens_generated=sum(_generated(run) for run in runs),
        evaluation_tokens_generated=_tokens(stages, _EVALUATION),
    )


_Stage = tuple[StageFacts, RunFacts]
"""A stage, and a run that rests on it."""


def _distinct_stages(runs: Sequence[RunFacts]) -> list[_Stage]:
    found: dict[tuple[str, str], _Stage] = {}
    for run in runs:
        for stage in run.stages:
            found.setdefault((stage.source_id, stage.stage), (stage, run))
    return list(found.values())


def _phase_of(stage: StageFacts) -> str:
    return _PHASE_OF.get(stage.stage, _EVALUATION)


def _phases(stages: Sequence[_Stage], runs: Sequence[RunFacts]) -> list[PhaseCost]:
    found = []
    for phase in ("sft", _EVALUATION, "rl"):
        seconds = [(stage.duration_s, run) for stage, run in stages if _phase_of(stage) == phase]
        if seconds:
            found.append(_phase(phase, seconds))
    for phase, metric in RL_PARTS.items():
        seconds = [(total(run.series[metric]), run) for run in runs if metric in run.series]
        if seconds:
            found.append(_phase(phase, seconds))
    return found


def _phase(phase: str, seconds: Iterable[tuple[float, RunFacts]]) -> PhaseCost:
    pairs = list(seconds)
    return PhaseCost(
        phase=phase,
        wall_s=sum(one for one, _ in pairs),
        gpu_s=sum(one * run.num_gpus for one, run in pairs),
        cpu_s=sum(one * run.num_cpus for one, run in pairs),
    )


def _tokens(stages: Sequence[_Stage], phase: str) -> float:
    return sum(stage.num_tokens for stage, _ in stages if _phase_of(stage) == phase)


def _generated(run: RunFacts) -> float:
    """Tokens of all completions that RL sampled: mean length x completions, over its steps."""
    lengths = run.series.get(LENGTHS)
    if lengths is None:
        return 0.0
    return total(_times(lengths, run.series)) * run.completions_per_step


def _times(lengths: StepSeries, series: Mapping[str, StepSeries]) -> StepSeries:
    batches = series.get(GEN_BATCHES)
    if batches is None:
        return lengths
    factors = np.interp(lengths.steps, batches.steps, batches.values)
    return StepSeries(steps=lengths.steps, values=lengths.values * factors)


def total(series: StepSeries) -> float:
    """The sum over all steps from 1 on: their mean times their number."""
    known = series.values[np.isfinite(series.values)]
    return float(known.mean() * series.steps[-1]) if len(known) else 0.0


def _wasted(run: RunFacts) -> list[tuple[float, AttemptFacts]]:
    """Seconds of each attempt that came to nothing."""
    if run.excluded_at is not None:
        return [(attempt.held_s, attempt) for attempt in run.attempts]
    return [
        (max(0.0, attempt.held_s - _finished_s(run, attempt)), attempt)
        for attempt in run.attempts
        if attempt.is_loss or run.status in _UNUSED
    ]


def _finished_s(run: RunFacts, attempt: AttemptFacts) -> float:
    own = (stage for stage in run.stages if stage.source_id == run.experiment_id and stage.attempt_id == attempt.id)
    return sum(stage.duration_s for stage in own)
