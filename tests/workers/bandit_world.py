"""A stage of reinforcement learning on a bandit: the real trainer with a tiny model, everything else plain objects.

The task has one choice among three tokens, so the whole policy is three chances, and a "weight sync" hands them over.
"""

import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from service.contract.data import PromptData
from service.contract.messages import RolloutSample, TokenView
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from tests.workers.tiny_model import make_trainer
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import ModelFacts
from workers.pipeline.stage_runner import run_stages
from workers.rollouts import Completion, EngineFacts, GenerationRequest, Prompt, SamplingParameters
from workers.stages.run_check import RunCheck
from workers.stages.stage_context import StageContext

PROMPT, ARMS, BEST = (3, 4), (7, 8, 9), 8
NUM_PROMPTS = 11


def make_spec(**rl: Any) -> ExperimentSpec:
    """Steps of four prompts with eight pulls each."""
    settings = {
        "data": {"path": "/bandit"},
        "reward": {"type": "exact_match"},
        "optimizer": {"learning_rate": 5e-3},
        "num_steps": 25,
        "num_prompts_per_step": 4,
        "num_generations": 8,
        "max_completion_length": 1,
        "rollout_sample_size": 0,
    }
    return ExperimentSpec.model_validate(
        {"name": "bandit", "seed": 5, "model": {"path": "/model", "max_model_len": 32}, "rl": settings | rl}
    )


class OwnTrainer:
    """`roles.Trainer` over a trainer of this process."""

    def __init__(self, model_folder: Path) -> None:
        self._folder = model_folder
        self.trainer: Trainer | None = None

    def begin_load(self) -> None:
        self.trainer = make_trainer(self._folder)

    def wait_loaded(self) -> ModelFacts:
        assert self.trainer is not None
        return ModelFacts(num_parameters=1, vocab_size=23, eos_token_ids=(1,), pad_token_id=0)

    def export(self, folder: str) -> str:
        assert self.trainer is not None
        return self.trainer.export(folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)


class BanditEngine:
    """`roles.Engine`: pulls arms with the chances that it was given last."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.policy: tuple[int, tuple[float, ...]] = (0, ())
        """Version and chances, replaced as one."""
        self.asked: list[GenerationRequest] = []
        self._delay_s = delay_s

    def begin_start(self) -> None:
        pass

    def check_start(self) -> None:
        pass

    def wait_started(self) -> EngineFacts:
        return EngineFacts(vllm_version="0", eos_token_ids=(1,), start_s=0.0)

    def take_metrics(self) -> dict[str, float]:
        return {}

    def generate(self, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        self.asked += requests
        time.sleep(self._delay_s)
        return [self._pull(request) for request in requests]

    def _pull(self, request: GenerationRequest) -> Completion:
        version, chances = self.policy
        [index] = random.Random(request.seed).choices(range(len(ARMS)), weights=chances)
        return Completion(
            prompt_uid=request.prompt.uid,
            sample_index=request.sample_index,
            token_ids=(ARMS[index],),
            logprobs=(math.log(chances[index]),),
            finish_reason="stop",
            text=str(ARMS[index]),
            policy_version=version,
        )


@dataclass(slots=True)
class Points:
    """`roles.Reports`: keeps the metrics."""

    values: dict[str, dict[int, float]] = field(default_factory=dict)

    def points(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, {})[step] = value

    def rollouts(self, samples: Iterable[RolloutSample]) -> None:
        pass

    def token_views(self, views: Iterable[TokenView]) -> None:
        pass

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        pass

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        pass

    def settle(self, deadline_s: float) -> None:
        pass


class BanditRun:
    """One attempt."""

    def __init__(
        self,
        spec: ExperimentSpec,
        model_folder: Path,
        folder: Path,
        *,
        reports: Points | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.trainer, self.engine = OwnTrainer(model_folder), BanditEngine(delay_s=delay_s)
        self.trainer.begin_load()
        self.reports = reports or Points()
        self.context = StageContext(
            spec=spec,
            output_dir=str(folder),
            trainer=self.trainer,  # type: ignore[arg-type]
            engine=self.engine,
            sync_weights=self.sync,
            reports=self.reports,
            load_prompts=load_prompts,
            check=RunCheck(lambda: None),
        )
        self.sync(0)

    def run(self) -> None:
        """The stage."""
        self.trainer.begin_load = lambda: None  # type: ignore[method-assign]
        run_stages(self.context, [], lambda result: None)

    def sync(self, version: int) -> dict[str, float]:
        """`roles.WeightSync`."""
        assert self.trainer.trainer is not None
        self.engine.policy = (version, chances_of(self.trainer.trainer))
        return {}


def load_prompts(data: PromptData, max_prompt_tokens: int, limit: int | None) -> list[Prompt]:
    """The same prompt under several numbers."""
    return [Prompt(uid=uid, text="pull", token_ids=PROMPT, answer=str(BEST)) for uid in range(NUM_PROMPTS)]


def chances_of(trainer: Trainer, arms: Sequence[int] = ARMS) -> tuple[float, ...]:
    """Of the arms, among themselves."""
    logprobs = trainer.logprobs([(list(PROMPT), [arm]) for arm in arms], temperature=1.0)
    chances = [math.exp(value) for [value] in logprobs]
    return tuple(chance / sum(chances) for chance in chances)
