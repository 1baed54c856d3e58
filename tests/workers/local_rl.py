"""Reinforcement learning as the driver runs it, with a real trainer in this process and completions out of a hat."""

import random
from pathlib import Path
from typing import Any, Literal

from service.contract.data import PromptData
from service.contract.spec import ExperimentSpec
from tests.workers.fake_actors import FakeEngine, FakeSync, RecordedReports
from tests.workers.tiny_model import WORDS
from workers.actors.trainer import Trainer
from workers.actors.trainer_results import ModelFacts
from workers.rollouts import Completion, GenerationRequest, Prompt, SamplingParameters
from workers.stages.rl import run_rl
from workers.stages.stage_context import StageContext

_END, _RIGHT, _WRONG = 1, 6, 7


class LocalTrainer(Trainer):
    """`roles.Trainer` without Ray."""

    logit = 0.0
    """What `FakeSync` hands over; the hat has no weights."""

    def begin_load(self) -> None:
        """Everything happens in `wait_loaded`."""

    def wait_loaded(self) -> ModelFacts:
        return self._policy.facts if self._policy is not None else self.load()


class HatEngine(FakeEngine):
    """`roles.Engine`: words drawn by each request's seed, with log-probs near those of drawing evenly."""

    def _complete(self, request: GenerationRequest, sampling: SamplingParameters) -> Completion:
        hat, most = random.Random(request.seed), sampling.max_completion_length
        words = [hat.choice((_RIGHT, _WRONG)) for _ in range(hat.choice((1, 1, 2, most)))]
        ends = len(words) < most
        finish_reason: Literal["stop", "length"] = "stop" if ends else "length"
        tokens = (*words, _END) if ends else tuple(words)
        return Completion(
            prompt_uid=request.prompt.uid,
            sample_index=request.sample_index,
            token_ids=tokens,
            logprobs=tuple(-3.0 + hat.uniform(-0.3, 0.3) for _ in tokens),
            finish_reason=finish_reason,
            text=" ".join(WORDS[word] for word in words),
            policy_version=self.version,
        )


def run_local_rl(spec: ExperimentSpec, output: Path) -> RecordedReports:
    """The RL stage of the specification from its beginning, one rank on one thread; what it reported."""
    assert spec.rl is not None
    trainer = LocalTrainer(model=spec.model, seed=spec.seed, num_cpus=1, num_gpus=0)
    engine, reports = HatEngine(), RecordedReports()
    engine.begin_start()
    context = StageContext(
        spec=spec,
        output_dir=str(output),
        trainer=trainer,
        engine=engine,
        sync_weights=FakeSync(trainer, engine),  # type: ignore[arg-type]
        reports=reports,
        load_prompts=_prompts,
        check=lambda: None,
    )
    run_rl(context, spec.rl, num_sft_steps=0)
    return reports


def _prompts(data: PromptData, max_prompt_tokens: int, limit: int | None) -> list[Prompt]:
    right = WORDS[_RIGHT]
    return [Prompt(uid=uid, text=f"w{uid}", token_ids=(3 + uid, 4), answer=right) for uid in range(7)][:limit]


def local_spec(model_folder: Path, **rl: Any) -> ExperimentSpec:
    """Six steps of three prompts, every one stored, a checkpoint after every second."""
    settings: dict[str, Any] = {
        "data": {"path": "/rl"},
        "reward": {"type": "exact_match"},
        "optimizer": {"learning_rate": 1e-2, "lr_schedule": "linear", "weight_decay": 0.01},
        "num_steps": 6,
        "num_prompts_per_step": 3,
        "num_generations": 4,
        "max_completion_length": 5,
        "temperature": 0.9,
        "save_steps": 2,
        "save_total_limit": 10,
        "rollout_store_steps": 1,
    }
    body = {"name": "toy", "seed": 5, "model": {"path": str(model_folder), "max_model_len": 32}, "rl": settings | rl}
    return ExperimentSpec.model_validate(body)
