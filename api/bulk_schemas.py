"""One order for many experiments. The client reads these too: pydantic and the contract only."""

from typing import Literal, Self

from pydantic import Field, model_validator

from service.contract.spec import PriorityName
from service.contract.status import ExperimentStatus
from service.contract.strict_model import StrictModel, WireModel

BulkAction = Literal["cancel", "hold", "release", "retry", "priority"]


class BulkOrder(StrictModel):
    """What to do with each of these experiments."""

    action: BulkAction
    ids: list[str] = Field(min_length=1, max_length=200)
    priority: PriorityName | None = None
    """Where the action is `priority`."""
    reason: str = Field(default="", max_length=500)
    """Where the action is `hold`."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.action == "priority") != (self.priority is not None):
            raise ValueError("action 'priority' needs a priority, and no other action takes one")
        if self.reason and self.action != "hold":
            raise ValueError("only action 'hold' takes a reason")
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("an id is named twice")
        return self


class BulkOutcome(WireModel):
    """What came of it for one experiment."""

    id: str
    done: bool
    status: ExperimentStatus | None = None
    """Its status now; null where it was refused."""
    code: str | None = None
    """The problem's stable code, where it was refused."""
    detail: str | None = None
    """Why, and what to do."""


class BulkReply(WireModel):
    """One outcome for each id, in their order. What was done stays done, whatever was refused."""

    items: list[BulkOutcome]
    num_done: int
