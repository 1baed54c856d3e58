"""The life of a study after it was locked: its states, why it is in one, and what may still be changed.

running <──resume──── paused          Every state but `cancelled` takes amendments; one that brings work, or takes
  │  └──────pause──────> │            a limit away, makes a stopped or finished study run again.
  ├── budget reached ────┴──> stopped      what waits is cancelled, what runs goes on to its end
  ├── every run has ended ──> finished
  └── cancel ───────────────> cancelled
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from service.contract.strict_model import StrictModel
from service.contract.studies import StudyArm, StudyBudget


class StudyState(StrEnum):
    """Where a study stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    FINISHED = "finished"

    @property
    def is_open(self) -> bool:
        """Whether further experiments of it may start."""
        return self in (StudyState.RUNNING, StudyState.PAUSED)


class StudyReason(StrEnum):
    """Why a study does not run (any more)."""

    PAUSED_BY_USER = "paused_by_user"
    CANCELLED_BY_USER = "cancelled_by_user"
    MAX_EXPERIMENTS = "max_experiments"
    MAX_GPU_HOURS = "max_gpu_hours"
    MAX_CPU_HOURS = "max_cpu_hours"
    HALF_WIDTH = "half_width"
    """Every arm's difference from the baseline is known as well as was asked for."""
    ALL_ENDED = "all_ended"


class AmendmentKind(StrEnum):
    """What an amendment is about."""

    ADD_SEEDS = "add_seeds"
    ADD_ARMS = "add_arms"
    CHANGE_BUDGET = "change_budget"


_DECIDES = "what decides was stated before the first run, and a study that changes it afterwards is another study"
_ADDED = "what was stated is kept, and more may be added"
_LOCKED: Mapping[str, str] = {
    "base": f"its arms would no longer be what was run; {_DECIDES}",
    "arms": f"{_ADDED}: new ones go under add_arms; an arm that was stated stays as it is",
    "baseline": _DECIDES,
    "primary": _DECIDES,
    "alpha": _DECIDES,
    "smallest_difference": _DECIDES,
    "factors": f"every arm would become another one; {_DECIDES}",
    "question": _DECIDES,
    "sft_seeds": f"{_ADDED}: new ones go under add_sft_seeds; to leave a run out, exclude it with a reason",
    "rl_seeds": f"{_ADDED}: new ones go under add_rl_seeds; to leave a run out, exclude it with a reason",
    "name": "the experiments carry it",
    "project": "the experiments belong to it",
}


class StudyChange(StrictModel):
    """An amendment: new seeds, new arms, or another budget, and why. One kind at a time."""

    reason: str = Field(min_length=1, max_length=2000)
    """Readers of the report see it."""
    add_sft_seeds: list[int] = Field(default=[], max_length=1000)
    add_rl_seeds: list[int] = Field(default=[], max_length=1000)
    add_arms: list[StudyArm] = Field(default=[], max_length=64)
    budget: StudyBudget | None = None
    """What is named replaces the limit of before, null takes it away; what is left out stays."""
    max_running: int | None = Field(default=None, ge=1)
    """Null: no limit of the study's own."""

    @property
    def kind(self) -> AmendmentKind:
        """The one kind that it is of."""
        return next(iter(self._kinds()))

    @property
    def changes_max_running(self) -> bool:
        """Whether it says something about `max_running`, if only that there is no limit."""
        return "max_running" in self.model_fields_set

    @model_validator(mode="before")
    @classmethod
    def _leaves_alone_what_is_locked(cls, body: Any) -> Any:
        locked = [key for key in _LOCKED if isinstance(body, dict) and key in body]
        if locked:
            reasons = "; ".join(f"{key} is locked: {_LOCKED[key]}" for key in locked)
            raise ValueError(f"{reasons}. Submit another study instead: stages that are equal are not run again")
        return body

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = self._kinds()
        if len(kinds) != 1:
            given = f"it has {' and '.join(sorted(kinds))}" if kinds else "it changes nothing"
            raise ValueError(
                f"an amendment adds seeds (add_sft_seeds, add_rl_seeds), or adds arms (add_arms), or changes the "
                f"budget (budget, max_running); {given}"
            )
        return self

    def _kinds(self) -> set[AmendmentKind]:
        kinds = {
            AmendmentKind.ADD_SEEDS: bool(self.add_sft_seeds or self.add_rl_seeds),
            AmendmentKind.ADD_ARMS: bool(self.add_arms),
            AmendmentKind.CHANGE_BUDGET: self.budget is not None or self.changes_max_running,
        }
        return {kind for kind, wanted in kinds.items() if wanted}
