"""Where a step of reinforcement learning gets its rollouts from: made when they are asked for, or ahead of time."""

from collections.abc import Sequence
from typing import Protocol

from workers.stages.step_rollouts import FinishedGroups, StepInProgress, StepRolloutMaker, StepRollouts


class RolloutSource(Protocol):
    """The rollouts of one step after the other; used by the thread that trains."""

    def begin(self, step: int, finished: Sequence[FinishedGroups]) -> None:
        """Take up at `step`, the next one to be trained, with groups that are finished already.

        The engine has the weights that this step trains. May be called again, also to go back to an earlier step: what
        was made since then by policies that no longer exist is forgotten.
        """

    def take(self, step: int) -> StepRollouts:
        """Wait for the rollouts of the step."""

    def weights_taken(self, step: int) -> None:
        """The engine has the weights that are the result of `step`."""

    def finished_groups(self) -> list[FinishedGroups]:
        """Of the steps that have not been taken."""

    def stop(self) -> None:
        """Make nothing more until the next `begin`; what is being made is given up."""


class RolloutsInStep:
    """Makes a step's rollouts when they are asked for, with the policy that is trained on them."""

    def __init__(self, maker: StepRolloutMaker) -> None:
        self._maker = maker

    def begin(self, step: int, finished: Sequence[FinishedGroups]) -> None:
        """See `RolloutSource`."""
        assert not finished, "nothing is made ahead of its step"

    def take(self, step: int) -> StepRollouts:
        """See `RolloutSource`."""
        return self._maker.make(StepInProgress(step=step))

    def weights_taken(self, step: int) -> None:
        """See `RolloutSource`."""

    def finished_groups(self) -> list[FinishedGroups]:
        """See `RolloutSource`."""
        return []

    def stop(self) -> None:
        """See `RolloutSource`."""
