"""When an experiment may start, beside whom, and what may stop it for a while."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.contract.strict_model import Moment, StrictModel

GroupName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
OnFailedDependency = Literal["wait", "cancel", "run"]


class ConcurrencyLimit(StrictModel):
    """So many experiments of a group may hold resources at a time. Groups are named freely, within the project."""

    group: GroupName
    max_running: int = Field(ge=1)
    """What this experiment respects; others of the group may say something else."""


class SchedulingSpec(StrictModel):
    """What the queue has to respect beside priority and resources."""

    after: list[str] = Field(default=[], max_length=64)
    """Ids of experiments of the same project that have to end before this one starts."""
    on_failed_dependency: OnFailedDependency = "wait"
    """If one of `after` fails or is cancelled: `wait` until it is retried and succeeds, `cancel` this one too, or
    `run` all the same."""
    not_before: Moment | None = None
    """The earliest start."""
    limits: list[ConcurrencyLimit] = Field(default=[], max_length=8)
    preemptible: bool | None = None
    """Whether an experiment of a higher class may stop this one for a while, at a checkpoint. Left out: `low` and
    `backfill` may be stopped, the others not."""

    @model_validator(mode="after")
    def _groups_and_dependencies_are_named_once(self) -> Self:
        groups = [limit.group for limit in self.limits]
        for name, values in (("after", self.after), ("limits", groups)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{name} names {', '.join(twice)} more than once; leave one")
        return self


PREEMPTIBLE_CLASSES = frozenset({"low", "backfill"})
"""Classes that may be stopped unless an experiment says otherwise."""
