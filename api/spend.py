"""What an experiment took, from its attempts, its stages and the times of RL's steps. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from api.output_schemas import PhaseSpend, Spend
from api.schemas import Attempt, Experiment
from api.timeline import runner_of
from service.contract.failures import FailureClass, class_of

PARTS_OF_RL = {
    "rl: generation": "timing_s/gen",
    "rl: training": "timing_s/update_actor",
    "rl: weight sync": "timing_s/update_weights",
}
"""Metrics whose sum over the steps is what a part of RL took; ahead of the trainer, generation runs beside the rest."""


def spend_of(experiment: Experiment, sums: Mapping[str, float], now: datetime) -> Spend:
    """`sums` over the steps of RL by metric, as far as they are known."""
    own = [result for result in experiment.stage_results if "reused_from" not in result.detail]
    phases = [_phase(experiment, result.stage, result.duration_s) for result in own]
    for place, phase in enumerate(phases):
        if phase.phase == "rl":
            parts = [(name, sums[metric]) for name, metric in PARTS_OF_RL.items() if metric in sums]
            phases[place + 1 : place + 1] = [_phase(experiment, name, spent, is_part=True) for name, spent in parts]
    held = {attempt.number: _held_s(attempt, now) for attempt in experiment.attempts}
    finished: defaultdict[int, float] = defaultdict(float)
    for result in own if held else ():
        finished[runner_of(result, experiment.attempts).number] += result.duration_s
    lost = {one.number: held[one.number] - finished[one.number] for one in experiment.attempts if _is_loss(one)}
    held_s, lost_s = sum(held.values()), sum(max(0.0, seconds) for seconds in lost.values())
    return Spend(
        phases=phases,
        held_cpu_s=held_s * experiment.num_cpus,
        held_gpu_s=held_s * experiment.num_gpus,
        lost_cpu_s=lost_s * experiment.num_cpus,
        lost_gpu_s=lost_s * experiment.num_gpus,
    )


def _phase(experiment: Experiment, name: str, seconds: float, *, is_part: bool = False) -> PhaseSpend:
    return PhaseSpend(
        phase=name,
        wall_s=seconds,
        cpu_s=seconds * experiment.num_cpus,
        gpu_s=seconds * experiment.num_gpus,
        is_part=is_part,
    )


def _held_s(attempt: Attempt, now: datetime) -> float:
    until = attempt.released_at or attempt.ended_at or now
    return max(0.0, (until - attempt.created_at).total_seconds())


def _is_loss(attempt: Attempt) -> bool:
    """Who is preempted saves before he gives way: nothing was in vain."""
    return attempt.end_reason is not None and class_of(attempt.end_reason) not in (None, FailureClass.PREEMPTED)
