"""The rollouts of one step of reinforcement learning: which prompts it asks, and how they become judged groups.

    step ──> its prompts ──> requests ──> engine ──> too old? asked again
                 ^                                     └──> judged ──> enough groups with a signal? done
                 └──────── the next batch of the step ────────────────── not yet

Which prompts a step asks, and under which seeds, follows from its number alone: whoever makes the rollouts, in whatever
order and however often the run is taken up, trains the same prompts, each where it belongs.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.contract.stages import RlSpec
from workers.data.prompt_dataset import prompt_indices_for_step
from workers.rewards.reward import Reward
from workers.rewards.reward_counts import RewardTally
from workers.rollouts import Completion, GenerationRequest, Prompt, SamplingParameters
from workers.stages.rl_groups import GroupSelection
from workers.stages.sampling import (
    JudgedGroup,
    RolloutMismatch,
    judge,
    make_requests,
    verify_answers,
    verify_versions,
)
from workers.stages.stage_context import StageContext
from workers.stages.step_clock import IdleClock, StepClock

logger = logging.getLogger(__name__)

_MOST_ASKS = 4
"""Times that a prompt is asked in one step; an engine that answers with old weights so often is not to be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedGroups:
    """Groups of one batch of a step that were judged together."""

    step: int
    batch: int
    """Of the step, from 0."""
    groups: dict[int, JudgedGroup]
    """By place in the batch."""
    tally: RewardTally
    """What the reward counted over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRollouts:
    """All that was generated for a step."""

    groups: list[JudgedGroup]
    """In the order of the prompts, batch after batch."""
    selection: GroupSelection
    """Has seen all groups."""
    tally: RewardTally
    seconds: dict[str, float]
    """By phase: `gen` and `reward`."""
    num_dropped: int
    """Groups that were too old and were made again."""


@dataclass(slots=True, kw_only=True)
class StepInProgress:
    """A step whose rollouts are being made: by one thread, under the eyes of another."""

    step: int
    finished: list[FinishedGroups] = field(default_factory=list)
    """Appended to only; its entries never change."""
    clock: StepClock = field(default_factory=StepClock)
    num_dropped: int = 0

    def groups_of(self, batch: int) -> dict[int, JudgedGroup]:
        """The finished groups of a batch by their places."""
        return {place: group for part in self.finished if part.batch == batch for place, group in part.groups.items()}


class StepRolloutMaker:
    """Makes the rollouts of steps; of several at once, if each has a thread of its own."""

    def __init__(self, context: StageContext, spec: RlSpec, prompts: list[Prompt], reward: Reward) -> None:
        self._context, self._spec, self._prompts, self._reward = context, spec, prompts, reward
        self._judging = threading.Lock()
        self.engine_clock = IdleClock()
        """Of the rollouts: idle is an engine that makes none."""

    def trained_version(self, step: int) -> int:
        """Of the policy that `step` trains: the newest one that can have made its rollouts."""
        return self._context.policy_version("rl", step - 1)

    def oldest_version(self, step: int) -> int:
        """Of a policy that may have made a token of `step`."""
        first = self._context.policy_version("rl", 0)
        return max(first, self.trained_version(step) - self._spec.num_steps_ahead)

    def make(self, state: StepInProgress) -> StepRollouts:
        """All groups of the step: in one batch, or in as many as the selection asks for.

        Raises RolloutMismatch for answers that do not belong to the questions or stay too old, and what engine and
        reward raise.
        """
        groups: list[JudgedGroup] = []
        selection = GroupSelection(self._spec)
        for batch in range(self._spec.dynamic_sampling.max_gen_batches):
            groups += (made := self._make_batch(state, batch))
            selection.add(made)
            if selection.is_full:
                break
        tally = RewardTally()
        for part in state.finished:
            tally.add(part.tally)
        return StepRollouts(
            groups=groups,
            selection=selection,
            tally=tally,
            seconds=state.clock.seconds,
            num_dropped=state.num_dropped,
        )

    def _make_batch(self, state: StepInProgress, batch: int) -> list[JudgedGroup]:
        """The groups of a batch in their order; those that are finished already are not made again."""
        asked, requests = self._requests(state.step, batch)
        num_asks = 0
        while len(done := state.groups_of(batch)) < len(asked):
            if num_asks == _MOST_ASKS:
                raise RolloutMismatch(
                    f"the prompts of step {state.step} were asked {num_asks} times, and the engine still answers with "
                    f"weights before policy version {self.oldest_version(state.step)}: it takes no updates any more"
                )
            num_asks += 1
            missing = [place for place in range(len(asked)) if place not in done]
            self._ask(state, batch, _Questions(places=missing, prompts=asked, requests=requests))
        return [done[place] for place in range(len(asked))]

    def _requests(self, step: int, batch: int) -> tuple[list[Prompt], list[GenerationRequest]]:
        """Each step owns the next `max_gen_batches` batches of prompts, also those that it does not need: which
        prompts a step asks follows from its number alone."""
        seed, most = self._context.spec.rl_seed, self._spec.dynamic_sampling.max_gen_batches
        place = (step - 1) * most + batch + 1
        indices = prompt_indices_for_step(len(self._prompts), self._spec.num_prompts_per_step, place, seed)
        asked = [self._prompts[index] for index in indices]
        return asked, make_requests(asked, self._spec.num_generations, seed, "rl", place)

    def _ask(self, state: StepInProgress, batch: int, questions: "_Questions") -> None:
        """Add the groups of some prompts to the step, as far as they are not too old."""
        sampling = SamplingParameters(
            temperature=self._spec.temperature, max_completion_length=self._spec.max_completion_length
        )
        wanted = questions.wanted
        with state.clock.measure("gen"), self.engine_clock.at_work():
            completions = self._context.engine.generate(wanted, sampling)
        verify_answers(wanted, completions)
        answers = questions.sorted_by_place(completions)
        if self._spec.mode == "async":
            answers = self._without_old_ones(state, answers)
        fresh = [completion for group in answers.values() for completion in group]
        # Never beyond the trainer's: a step is trained after its rollouts.
        verify_versions(fresh, range(self.oldest_version(state.step), self._context.versions.trainer + 1))
        if answers:
            self._judge(state, batch, [questions.prompts[place] for place in answers], answers)

    def _without_old_ones(
        self, state: StepInProgress, answers: Mapping[int, list[Completion]]
    ) -> dict[int, list[Completion]]:
        oldest = self.oldest_version(state.step)
        fresh = {
            place: group
            for place, group in answers.items()
            if all(completion.policy_version >= oldest for completion in group)
        }
        if num_old := len(answers) - len(fresh):
            state.num_dropped += num_old
            logger.warning("groups too old, asking again", extra={"step": state.step, "count": num_old})
        return fresh

    def _judge(
        self, state: StepInProgress, batch: int, prompts: list[Prompt], answers: Mapping[int, list[Completion]]
    ) -> None:
        completions = [completion for group in answers.values() for completion in group]
        with self._judging, state.clock.measure("reward"):
            judged = judge(prompts, completions, self._reward)
            tally = self._reward.take_tally()
        groups = dict(zip(answers, judged, strict=True))
        state.finished.append(FinishedGroups(step=state.step, batch=batch, groups=groups, tally=tally))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Questions:
    """Some prompts of a batch, each with all its requests."""

    places: list[int]
    """In the batch, of the prompts that are asked now."""
    prompts: list[Prompt]
    """All of the batch."""
    requests: list[GenerationRequest]
    """All of the batch, a prompt's together."""

    @property
    def wanted(self) -> list[GenerationRequest]:
        size = len(self.requests) // len(self.prompts)
        return [request for place in self.places for request in self.requests[place * size : (place + 1) * size]]

    def sorted_by_place(self, completions: list[Completion]) -> dict[int, list[Completion]]:
        """The completions of `wanted`, group by group."""
        size = len(self.requests) // len(self.prompts)
        return {place: completions[i * size : (i + 1) * size] for i, place in enumerate(self.places)}
