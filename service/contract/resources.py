"""What an attempt holds of the cluster, by the role of its actors, and the sums that follow."""

from typing import Literal, Self

from pydantic import Field, model_validator

from service.contract.strict_model import StrictModel


class RoleResources(StrictModel):
    """What one actor of a role holds for the whole attempt, as Ray counts it."""

    num_cpus: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    num_gpus: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    gpu_types: list[str] = Field(default=[], max_length=8)
    """Kinds of GPU that will do, by Ray's names, such as `H100`; none named: any. All actors of a role get one kind."""

    @model_validator(mode="after")
    def _kinds_need_a_gpu(self) -> Self:
        if self.gpu_types and not self.num_gpus:
            raise ValueError(f"gpu_types {self.gpu_types} but num_gpus 0; ask for a GPU, or leave gpu_types out")
        return self


class TrainerResources(RoleResources):
    """What the trainer's ranks hold; the numbers of CPUs and GPUs are those of one rank."""

    num_ranks: int = Field(default=1, ge=1, le=1024)
    """Trainer actors that share model, optimizer and batch between them (FSDP2)."""


class RolloutResources(RoleResources):
    """What the rollout engines hold; the numbers of CPUs and GPUs are those of one engine."""

    num_engines: int = Field(default=1, ge=1, le=256)
    """Engines that share the rollouts between them, each with the whole model."""
    max_num_engines: int | None = Field(default=None, ge=1, le=256)
    """Idle capacity may lend further engines up to this number; they are asked back when somebody else needs it."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    """GPUs over which one engine divides each layer; above 1 an engine holds exactly so many."""

    @model_validator(mode="after")
    def _has_a_gpu_for_each_part(self) -> Self:
        if self.tensor_parallel_size > 1 and self.num_gpus != self.tensor_parallel_size:
            raise ValueError(
                f"tensor_parallel_size {self.tensor_parallel_size} needs num_gpus {self.tensor_parallel_size} for each "
                f"engine, not {self.num_gpus:g}"
            )
        return self

    @model_validator(mode="after")
    def _most_is_not_below_least(self) -> Self:
        if self.max_num_engines is not None and self.max_num_engines < self.num_engines:
            raise ValueError(f"max_num_engines {self.max_num_engines} is below num_engines {self.num_engines}")
        return self


class ResourcesSpec(StrictModel):
    """The trainer's ranks and the rollout engines, placed together once per attempt."""

    trainer: TrainerResources = TrainerResources()
    rollout: RolloutResources = RolloutResources()
    placement: Literal["disaggregated", "colocated"] = "disaggregated"
    """`disaggregated`: each rank and each engine has CPUs and GPUs of its own. `colocated`: rank i and engine i share
    theirs and work by turns, each with all of its `num_cpus` threads; on a GPU the engine sleeps while the trainer
    works, and `rollout.num_gpus` is the share of the GPU's memory that it takes when awake."""

    @property
    def bundles(self) -> list[RoleResources]:
        """What is held together on one machine: the trainer's ranks in their order, then engines that share with none.

        Where two share, threads are counted once and parts of a GPU add up.
        """
        if self.placement == "disaggregated":
            return [self.trainer] * self.trainer.num_ranks + [self.rollout] * self.rollout.num_engines
        num_shared = min(self.trainer.num_ranks, self.rollout.num_engines)
        shared = RoleResources(
            num_cpus=max(self.trainer.num_cpus, self.rollout.num_cpus),
            num_gpus=self.trainer.num_gpus + self.rollout.num_gpus,
            gpu_types=self.trainer.gpu_types,
        )
        others = [self.trainer] * (self.trainer.num_ranks - num_shared)
        return [shared] * num_shared + others + [self.rollout] * (self.rollout.num_engines - num_shared)

    def without_engines(self) -> Self:
        """The trainer's ranks alone."""
        rollout = self.rollout.model_copy(update={"num_engines": 0, "max_num_engines": None})
        return self.model_copy(update={"rollout": rollout, "placement": "disaggregated"})

    @property
    def num_cpus(self) -> float:
        """CPUs of the whole attempt."""
        return sum(bundle.num_cpus for bundle in self.bundles)

    @property
    def num_gpus(self) -> float:
        """GPUs of the whole attempt."""
        return sum(bundle.num_gpus for bundle in self.bundles)

    @model_validator(mode="after")
    def _can_share(self) -> Self:
        if self.placement == "disaggregated":
            return self
        if self.trainer.gpu_types != self.rollout.gpu_types:
            raise ValueError(
                f"placement 'colocated' lets a rank and an engine share one GPU, so trainer.gpu_types "
                f"{self.trainer.gpu_types} and rollout.gpu_types {self.rollout.gpu_types} must be the same"
            )
        if self.rollout.max_num_engines is not None:
            raise ValueError("rollout.max_num_engines needs placement 'disaggregated': a lent engine works by no turns")
        shares = (self.trainer.num_gpus, self.rollout.num_gpus)
        if any(shares) and (not all(shares) or sum(shares) > 1):
            raise ValueError(
                f"placement 'colocated' lets a rank and an engine share one GPU, so trainer.num_gpus {shares[0]:g} and "
                f"rollout.num_gpus {shares[1]:g} must be parts of it that come to 1 at most, or both 0"
            )
        return self
