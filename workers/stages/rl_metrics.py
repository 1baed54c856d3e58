"""The metrics of a reinforcement learning step that the driver itself knows; the trainer adds its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from service.contract.stages import RlSpec
from workers.stages.rl_groups import ShapedGroup, StepGroups, selection_metrics
from workers.stages.sampling import JudgedGroup
from workers.stages.step_rollouts import StepRollouts

FULL_REWARD = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStep:
    """A step that is done, and what it took."""

    step: int
    rollouts: StepRollouts
    chosen: StepGroups
    trained: Mapping[str, float]
    """The trainer's own metrics, and those of the weight sync behind the step."""
    seconds: Mapping[str, float]
    """By phase: of the trainer's thread, and `rollout_idle`."""

    @property
    def num_tokens(self) -> int:
        """Completion tokens that were trained."""
        return sum(sum(group.lengths) for group in self.chosen.groups)


def step_metrics(done: TrainedStep, spec: RlSpec, trained_version: int) -> dict[str, float]:
    """All of the step's metrics but those that count over steps, and the reward's own figures."""
    seconds = {**done.rollouts.seconds, **done.seconds, "trainer_idle": _trainer_idle_s(done.seconds)}
    return {
        **rollout_metrics(done.rollouts.groups),
        **selection_metrics(spec, len(done.rollouts.groups), done.chosen),
        **(staleness_metrics(done, trained_version) if spec.mode == "async" else {}),
        **done.trained,
        **{f"timing_s/{phase}": value for phase, value in seconds.items()},
        "perf/throughput": done.num_tokens / done.seconds["step"],
    }


def rollout_metrics(groups: Sequence[JudgedGroup]) -> dict[str, float]:
    """`reward/*`, `group/*` and `completions/*` of all that a step generated, before penalties for length.

    The standard deviation is the population's.
    """
    rewards = [reward for group in groups for reward in group.rewards]
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    return {
        "reward/mean": fmean(rewards),
        "reward/std": pstdev(rewards),
        "group/frac_reward_zero_std": fmean(not group.is_mixed for group in groups),
        "group/frac_all_correct": fmean(min(group.rewards) >= FULL_REWARD for group in groups),
        "group/frac_all_wrong": fmean(max(group.rewards) <= 0.0 for group in groups),
        "completions/mean_length": fmean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": fmean(completion.finish_reason == "length" for completion in completions),
    }


def staleness_metrics(done: TrainedStep, trained_version: int) -> dict[str, float]:
    """`async/*` of the groups that were trained; a group is as old as its oldest token."""
    ages = [trained_version - _oldest_version(group) for group in done.chosen.groups]
    completions = [completion for group in done.chosen.groups for completion in group.judged.completions]
    return {
        "async/staleness/mean": fmean(ages),
        "async/staleness/max": float(max(ages)),
        "async/mixed_ratio": fmean(len(completion.spans) > 1 for completion in completions),
        "async/dropped_stale": float(done.rollouts.num_dropped),
    }


def _oldest_version(group: ShapedGroup) -> int:
    return min(completion.policy_version for completion in group.judged.completions)


def _trainer_idle_s(seconds: Mapping[str, float]) -> float:
    return seconds["step"] - seconds["update_actor"] - seconds["update_weights"]
