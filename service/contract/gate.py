"""What the policy must show before reinforcement learning begins."""

from typing import Self

from pydantic import Field, model_validator

from service.contract.strict_model import StrictModel


class GateSpec(StrictModel):
    """A probe of the policy, and the limits within which its completions must lie; beyond them the run ends.

    The limits are on what RL itself would see: its prompts, its reward, its temperature and length limit.
    """

    num_prompts: int = Field(default=32, ge=1)
    """The prompts that RL would ask first; all of its prompts if there are fewer."""
    num_generations: int | None = Field(default=None, ge=2)
    """Completions per prompt; left out: as many as RL draws."""
    max_clipped_ratio: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of completions that may be cut at the length limit."""
    max_frac_reward_zero_std: float = Field(default=0.95, ge=0.0, le=1.0)
    """Share of groups whose rewards may all be equal; such a group teaches nothing."""
    min_reward: float | None = Field(default=None, allow_inf_nan=False)
    """Least mean reward; left out: no limit."""
    max_reward: float | None = Field(default=None, allow_inf_nan=False)
    """Greatest mean reward: above it there is little left to learn."""

    @model_validator(mode="after")
    def _some_reward_passes(self) -> Self:
        if self.min_reward is not None and self.max_reward is not None and self.min_reward > self.max_reward:
            raise ValueError(
                f"no reward lies between min_reward {self.min_reward:g} and max_reward {self.max_reward:g}"
            )
        return self
