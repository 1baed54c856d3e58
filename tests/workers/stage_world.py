"""One attempt in a world without Ray, torch or vLLM, and the specification that it runs."""

from pathlib import Path
from typing import Any

from service.contract.messages import StageResult, TokenView
from service.contract.spec import ExperimentSpec
from tests.workers.fake_actors import Disk, FakeEngine, FakeSync, FakeTrainer, RecordedReports, fake_prompts
from workers.pipeline.stage_runner import run_stages
from workers.stages.run_check import RunCheck
from workers.stages.stage_context import StageContext

SFT = {
    "data": {"path": "/sft"},
    "optimizer": {"learning_rate": 1e-3},
    "num_epochs": 2,
    "batch_size": 8,
    "save_steps": 4,
}
RL = {
    "data": {"path": "/rl"},
    "reward": {"type": "exact_match"},
    "optimizer": {"learning_rate": 1e-3},
    "num_steps": 20,
    "num_prompts_per_step": 4,
    "num_generations": 8,
    "max_completion_length": 2,
    "save_steps": 7,
    # Most worlds have no folder to keep anything in.
    "rollout_sample_size": 0,
}
EVALUATION = {
    "data": {"path": "/test"},
    "reward": {"type": "exact_match"},
    "num_generations": 4,
    "pass_at_k": [1, 4],
    "max_completion_length": 2,
}


class Crash(BaseException):
    """The end of an attempt at a moment that nobody chose."""


def make_spec(**changes: Any) -> ExperimentSpec:
    """Six steps of SFT, twenty of reinforcement learning, three evaluations."""
    body = {"name": "toy", "seed": 3, "model": {"path": "/model"}, "sft": SFT, "rl": RL, "evaluation": EVALUATION}
    return ExperimentSpec.model_validate(body | changes)


def make_view(num_tokens: int) -> TokenView:
    """A sample whose first token alone is the prompt."""
    values = [None, *(0.5,) * (num_tokens - 1)]
    return TokenView(
        stage="sft",
        step=1,
        sample_index=0,
        tokens=["word "] * num_tokens,
        token_ids=[7] * num_tokens,
        label_probs=values,
        topk_masses=values,
        entropies=values,
        weights=values,
        top_k=2,
        tau=0.25,
    )


class World:
    """One attempt: fresh actors on a disk that may hold earlier attempts' checkpoints."""

    def __init__(
        self,
        spec: ExperimentSpec,
        disk: Disk | None = None,
        *,
        output_dir: Path | str = "/out/",
        crash_in_sft_step: int | None = None,
        crash_in_rl_step: int | None = None,
        preempt_in_sft_step: int | None = None,
        preempt_in_rl_step: int | None = None,
    ) -> None:
        def crash_at(wanted: int | None, step: int, preempted: int | None) -> None:
            if step == wanted:
                raise Crash
            if step == preempted:
                self.context.give_way.ask()

        self.disk = disk or Disk()
        self.trainer = FakeTrainer(
            self.disk,
            before_sft_step=lambda step: crash_at(crash_in_sft_step, step, preempt_in_sft_step),
            before_rl_step=lambda step: crash_at(crash_in_rl_step, step, preempt_in_rl_step),
        )
        self.engine = FakeEngine()
        self.reports = RecordedReports()
        self.finished: list[StageResult] = []
        self.verified: list[str] = []
        self.context = StageContext(
            spec=spec,
            output_dir=str(output_dir),
            trainer=self.trainer,
            engine=self.engine,
            sync_weights=FakeSync(self.trainer, self.engine),
            reports=self.reports,
            load_prompts=fake_prompts,
            check=RunCheck(lambda: self.context.give_way.check()),
            verify_checkpoint=self.verified.append,
        )

    def run(self, completed: list[StageResult] | None = None) -> list[StageResult]:
        """All stages that are left."""
        return run_stages(self.context, completed or [], self.finished.append)
