"""Settings of reinforcement learning that are allowed but hardly meant. Pure."""

from collections.abc import Iterator

from service.contract.rl import preset_differences
from service.contract.stages import RlSpec

_LARGEST_SEQUENCE_EPSILON = 0.05
"""Ratios of sequences are geometric means over their tokens and hardly leave 1; GSPO's authors use 3e-4 and 4e-4."""


def warn_of_rl(rl: RlSpec) -> Iterator[str]:
    """What contradicts the preset, what never acts, what learns nothing."""
    yield from _warn_of_preset(rl)
    yield from _warn_of_staleness(rl)
    is_single_update = rl.num_sequences_per_update == rl.num_samples_per_step and rl.num_iterations == 1
    if is_single_update and rl.policy_loss != "reinforce":
        yield (
            "rl: one update per step, made by the policy that sampled: the probability ratio is 1, so epsilon_low and "
            "epsilon_high never act; give mini_batch_size or num_iterations to change that"
        )
    if not is_single_update and rl.policy_loss == "reinforce":
        yield (
            "rl.policy_loss reinforce: several updates per step, and nothing makes up for the policy that moves away "
            "from the one that sampled; leave mini_batch_size and num_iterations out, or take ppo_clip or cispo"
        )
    if rl.policy_loss == "gspo" and max(rl.epsilon_low, rl.epsilon_high) > _LARGEST_SEQUENCE_EPSILON:
        yield (
            f"rl.policy_loss gspo with epsilon_low {rl.epsilon_low:g} and epsilon_high {rl.epsilon_high:g}: the ratio "
            "of a sequence is a mean over its tokens and hardly moves that far, so nothing is clipped; its authors "
            "use 3e-4 and 4e-4"
        )
    yield from _warn_of_groups(rl)


def _warn_of_preset(rl: RlSpec) -> Iterator[str]:
    for name, found, wanted in preset_differences(rl.model_dump(mode="json")):
        yield f"rl.preset {rl.preset} stands for {name} {wanted}, but the specification says {found}, which counts"


def _warn_of_staleness(rl: RlSpec) -> Iterator[str]:
    if rl.mode == "sync":
        return
    if rl.rollout_correction.mode == "none":
        yield (
            f"rl.mode async with rollout_correction none: completions of policies up to {rl.num_steps_ahead} versions "
            "old are trained as if the present one had made them; leave rollout_correction out for token_truncate"
        )
    if rl.num_steps_ahead >= rl.num_steps:
        yield (
            f"rl.max_staleness {rl.num_steps_ahead} is no bound for {rl.num_steps} steps: all of their rollouts may be "
            "made before the first is trained; peers gain little beyond 1"
        )


def _warn_of_groups(rl: RlSpec) -> Iterator[str]:
    if rl.adv_estimator == "reinforce_plus_plus" and rl.dynamic_sampling.mode != "none":
        yield (
            f"rl.dynamic_sampling {rl.dynamic_sampling.mode}: reinforce_plus_plus learns from groups of equal rewards "
            "too, and they are taken out; mode none keeps them"
        )
    if rl.overlong_buffer and rl.mask_truncated_completions:
        yield (
            "rl.mask_truncated_completions: completions that reach the limit are not trained, so the full penalty of "
            "overlong_buffer acts on their group's other completions only"
        )
