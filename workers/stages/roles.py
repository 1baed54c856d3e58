"""What a stage needs from the world, as protocols: in a run Ray actors stand behind them, in unit tests plain objects.

Every call may also raise what ends a run from outside: cancellation, a deadline, the loss of an actor.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from pydantic import JsonValue

from service.contract.data import PromptData
from service.contract.messages import RolloutSample, TokenView
from service.contract.stages import RlSpec, SftSpec, StageName
from workers.actors.trainer_results import ModelFacts, RlCarried, RlPlan, SftEnd, SftPlan, SftSlice
from workers.rollouts import Completion, EngineFacts, GenerationRequest, Prompt, SamplingParameters, TrainingSample


class Trainer(Protocol):
    """Holds the policy that is trained. Steps count from 1."""

    def begin_load(self) -> None:
        """Start loading the base model; returns at once."""

    def wait_loaded(self) -> ModelFacts:
        """Wait until the model is there."""

    def restart(self) -> bool:
        """End what is left of a trainer that was lost, and start loading anew; says whether there is a place for it."""

    def prepare_sft(self, spec: SftSpec, checkpoint_root: str) -> SftPlan:
        """Load the data and take up at the newest valid checkpoint."""

    def sft_steps(self, *, max_steps: int, max_seconds: float) -> SftSlice:
        """Whole optimizer steps until one limit is reached; none says that all are done."""

    def save_sft(self) -> str:
        """Write a checkpoint after the last step done, whether or not one is due; returns its place."""

    def end_sft(self) -> SftEnd:
        """Take the weights with which the stage ends, all steps done."""

    def take_weights(self, checkpoint_root: str, step: int) -> None:
        """Load the weights of another run's checkpoint, and nothing else of it."""

    def prepare_rl(self, spec: RlSpec, checkpoint_root: str) -> RlPlan:
        """Take up at the newest valid checkpoint."""

    def rl_step(self, step: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        """Train on one step's rollouts; returns metrics by name."""

    def save_rl(self, step: int, policy_version: int, carried: RlCarried | None = None) -> str:
        """Write a checkpoint after `step`, with what the plan shall carry to whoever resumes; returns its place."""

    def export(self, folder: str) -> str:
        """Write the model as a Hugging Face folder; returns its place."""


class Engine(Protocol):
    """Samples completions, on as many engines as there are. Starts with the weights of the base model."""

    def begin_start(self) -> None:
        """Start it; returns at once."""

    def check_start(self) -> None:
        """Raise if it has failed for good; never waits. Does nothing if no start was begun."""

    def wait_started(self) -> EngineFacts:
        """Wait until it answers."""

    def generate(self, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        """One completion per request, in the order of the requests. May be called from several threads at once."""

    def take_metrics(self) -> dict[str, float]:
        """What happened to it since the last call, by metric name."""


class WeightSync(Protocol):
    """Moves the trainer's present weights into the engine, and makes sure that they are there."""

    def __call__(self, version: int) -> Mapping[str, float]:
        """The engine's completions carry `version` from now on; returns what it took, by metric name."""

    def trainer_replaced(self) -> None:
        """Nothing holds any more that was agreed with the trainer before."""


class Reports(Protocol):
    """Takes what people want to see; only `settle` waits."""

    def points(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of one step, by name; the steps of a name rise strictly."""

    def rollouts(self, samples: Iterable[RolloutSample]) -> None:
        """Completions for people to read."""

    def token_views(self, views: Iterable[TokenView]) -> None:
        """Held-out samples token by token."""

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        """Something that a person should know about the run."""

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        """What the run is doing now."""

    def settle(self, deadline_s: float) -> None:
        """Wait until the service has everything so far, but no longer than the deadline."""


LoadPrompts = Callable[[PromptData, int, int | None], list[Prompt]]
"""Data set, most tokens of a prompt, most prompts (None: all)."""
