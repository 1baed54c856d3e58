"""The gate between SFT and reinforcement learning: a probe that shows whether RL could learn anything at all.

A policy that never ends its answers, or whose attempts are all right or all wrong, costs hours of rollouts before
anybody looks at a chart. The probe costs about as much as one step.
"""

import logging
from collections.abc import Iterator

from service.contract.gate import GateSpec
from service.contract.stages import RlSpec
from workers.data.prompt_dataset import prompt_indices_for_step
from workers.rewards.reward import Reward
from workers.rollouts import Prompt, SamplingParameters
from workers.stages.rl_metrics import rollout_metrics
from workers.stages.sampling import JudgedGroup, judge, make_requests, shown_samples, verify_completions
from workers.stages.stage_context import StageContext

logger = logging.getLogger(__name__)

_METRICS = {
    "gate/reward": "reward/mean",
    "gate/clipped_ratio": "completions/clipped_ratio",
    "gate/frac_reward_zero_std": "group/frac_reward_zero_std",
    "gate/mean_length": "completions/mean_length",
}
"""The probe's metrics, by the names that an RL step has for them."""
_NUM_SHOWN = 8


class GateClosed(Exception):
    """The policy is not fit for reinforcement learning with these settings."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(f"reinforcement learning was not begun, since its gate is closed: {'; '.join(faults)}")


def pass_gate(context: StageContext, spec: RlSpec, gate: GateSpec, prompts: list[Prompt], reward: Reward) -> None:
    """Sample with the policy that the engine holds, before the first step; raises GateClosed with all that is wrong.

    What the probe found is reported as the metrics and completions of step 0.
    """
    groups = _probe(context, spec, gate, prompts, reward)
    seen = rollout_metrics(groups)
    found = {name: seen[source] for name, source in _METRICS.items()}
    context.reports.points(0, found | reward.metrics_of(reward.take_tally()))
    context.reports.rollouts(shown_samples(groups, "rl", 0, _NUM_SHOWN))
    num_completions = sum(len(group.completions) for group in groups)
    faults = [*_missing_ends(context), *_beyond_limits(gate, spec, found, num_completions)]
    if faults:
        raise GateClosed(faults)
    logger.info("gate passed", extra={"found": found})


def _probe(
    context: StageContext, spec: RlSpec, gate: GateSpec, prompts: list[Prompt], reward: Reward
) -> list[JudgedGroup]:
    context.reports.progress("rl", "probing the policy", 0, spec.num_steps)
    seed = context.spec.rl_seed
    # One permutation begins with those that the first steps will ask.
    indices = prompt_indices_for_step(len(prompts), min(gate.num_prompts, len(prompts)), 1, seed)
    asked = [prompts[index] for index in indices]
    requests = make_requests(asked, gate.num_generations or spec.num_generations, seed, "gate")
    sampling = SamplingParameters(temperature=spec.temperature, max_completion_length=spec.max_completion_length)
    completions = context.engine.generate(requests, sampling)
    verify_completions(requests, completions, context.versions.engine)
    return judge(asked, completions, reward)


def _missing_ends(context: StageContext) -> Iterator[str]:
    """Both sides read the model's folder for themselves, perhaps on two machines."""
    trained = context.trainer.wait_loaded().eos_token_ids
    stopping = context.engine.wait_started().eos_token_ids
    missing = [token for token in trained if token not in stopping]
    if missing:
        yield (
            f"the rollout engine does not stop at end tokens {missing} that are trained (it stops at "
            f"{list(stopping)}): give all nodes the same model folder, tokenizer and generation_config.json included"
        )


def _beyond_limits(gate: GateSpec, spec: RlSpec, found: dict[str, float], num_completions: int) -> Iterator[str]:
    clipped, equal, reward = (
        found[name] for name in ("gate/clipped_ratio", "gate/frac_reward_zero_std", "gate/reward")
    )
    if clipped > gate.max_clipped_ratio:
        yield (
            f"{clipped:.0%} of {num_completions} completions were cut at rl.max_completion_length "
            f"{spec.max_completion_length}, and rl.gate.max_clipped_ratio is {gate.max_clipped_ratio:g}: allow longer "
            "completions, or train SFT until the policy ends its answers"
        )
    if equal > gate.max_frac_reward_zero_std:
        yield (
            f"{equal:.0%} of the prompts have completions of one reward only, which teach nothing, and "
            f"rl.gate.max_frac_reward_zero_std is {gate.max_frac_reward_zero_std:g}: take prompts that the policy "
            "solves now and then, or more rl.num_generations"
        )
    if gate.min_reward is not None and reward < gate.min_reward:
        yield (
            f"the mean reward is {reward:.4g}, and rl.gate.min_reward is {gate.min_reward:g}: train SFT longer, take "
            "easier prompts, or look at the completions of step 0 for a form that the reward does not read"
        )
    if gate.max_reward is not None and reward > gate.max_reward:
        yield (
            f"the mean reward is {reward:.4g}, and rl.gate.max_reward is {gate.max_reward:g}: little is left to learn; "
            "take harder prompts"
        )
