"""What happens when a run stands still."""

from typing import Literal

from pydantic import Field

from service.contract.strict_model import StrictModel


class StallSpec(StrictModel):
    """A phase that takes far longer than it usually does is looked into: stacks are dumped, the culprit is named."""

    factor: float = Field(default=20.0, gt=1.0, allow_inf_nan=False)
    """So many times the median of the phase's last durations are too long."""
    least_s: float = Field(default=300.0, gt=0.0, allow_inf_nan=False)
    """Seconds that any phase may take, however short it usually is."""
    action: Literal["report", "replace", "fail"] = "replace"
    """`report` leaves it at an event; `replace` ends the rollout engine or the trainer that is waited for, which is
    started anew; `fail` ends the attempt, which may be retried."""
