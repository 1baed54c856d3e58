"""What is hardly meant in the settings of rewards. Pure."""

from collections.abc import Iterator
from math import fsum, isclose

from service.contract.rewards import AuditedReward, CodeTestsReward, CombinedReward, RewardSpec, single_rewards
from service.contract.spec import ExperimentSpec


def warn_of_rewards(spec: ExperimentSpec) -> Iterator[str]:
    """Weights whose sum moves the mark of a solved prompt, and programs that may reach the network."""
    if spec.rl is not None:
        yield from _warn("rl.reward", spec.rl.reward)
    for where, one in spec.evaluation_sets().items():
        yield from _warn(f"{where}.reward", one.reward)


def _warn(where: str, reward: RewardSpec) -> Iterator[str]:
    judged = reward.reward if isinstance(reward, AuditedReward) else reward
    if isinstance(judged, CombinedReward):
        total = fsum(part.weight for part in judged.parts)
        if not isclose(total, 1.0, abs_tol=1e-9):
            yield f"{where}: the weights sum to {total:g}, but a completion counts as solved from 1.0"
    if any(isinstance(single, CodeTestsReward) and not single.require_isolation for single in single_rewards(reward)):
        yield (
            f"{where}: programs that the model writes run with the workers' file system, and with a network where the "
            "kernel grants no namespace; require_isolation refuses the latter"
        )
