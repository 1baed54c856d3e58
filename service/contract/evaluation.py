"""Sampling on held-out prompts: the sets, and when they are sampled."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from service.contract.data import PromptData
from service.contract.data_sets import DATA_SETS
from service.contract.rewards import RewardSpec
from service.contract.stages import EvaluationPoint
from service.contract.strict_model import StrictModel


def _reward_may_come_from_a_set(schema: dict[str, Any]) -> None:
    schema["required"].remove("reward")


class EvaluationSet(StrictModel):
    """Prompts, and how completions of them are drawn and judged."""

    model_config = ConfigDict(json_schema_extra=_reward_may_come_from_a_set)

    name: str = Field(default="test", pattern=r"^[a-z0-9_-]{1,40}$")
    """The set's name in metrics: `eval/{name}/pass@k`. Left out: the name of `data.set`, or `test`."""
    data: PromptData
    reward: RewardSpec
    """Left out: what `data.set` is judged by."""
    num_prompts: int | None = Field(default=None, ge=1)
    """The first so many prompts of the set; left out: all."""
    num_generations: int = Field(default=8, ge=1)
    pass_at_k: list[int] = Field(default=[1, 8], min_length=1)
    temperature: float = Field(default=1.0, gt=0.0)
    max_completion_length: int = Field(ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_the_set(cls, body: Any) -> Any:
        """A data set that is called by its name brings a name in metrics, and the reward that judges it."""
        data = body.get("data") if isinstance(body, dict) else None
        name = data.get("set") if isinstance(data, dict) else getattr(data, "set", None)
        known = DATA_SETS.get(name) if isinstance(name, str) else None
        if known is None or known.reward is None:
            return body
        return {"name": known.name, "reward": dict(known.reward), **body}

    @model_validator(mode="after")
    def _k_within_generations(self) -> Self:
        beyond = [k for k in self.pass_at_k if not 1 <= k <= self.num_generations]
        if beyond:
            raise ValueError(f"pass_at_k {beyond} must lie between 1 and num_generations ({self.num_generations})")
        return self


class EvaluationSpec(EvaluationSet):
    """Sampling before, between and after the stages: the set itself, and further ones at the same points."""

    points: list[EvaluationPoint] = Field(default=["base", "after_sft", "after_rl"], min_length=1)
    sft_steps: list[Annotated[int, Field(ge=1)]] = []
    """Optimizer steps of SFT after which the sets are sampled too, besides `points`, in rising order."""
    rl_eval_steps: int | None = Field(default=None, ge=1)
    """Steps of RL between two samplings of the sets; left out: at `points` only."""
    further_sets: list[EvaluationSet] = Field(default=[], max_length=32)
    """Sampled whenever the first set is, one after the other; each needs a name of its own."""

    @property
    def sets(self) -> list[EvaluationSet]:
        """All of them, the first one first."""
        return [self, *self.further_sets]

    @model_validator(mode="after")
    def _sft_steps_rise(self) -> Self:
        if self.sft_steps != sorted(set(self.sft_steps)):
            raise ValueError(f"sft_steps {self.sft_steps} must rise, each step once: {sorted(set(self.sft_steps))}")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self.sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"further_sets: {twice} names more than one set, and metrics go by the name")
        return self
