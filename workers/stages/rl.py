"""Reinforcement learning in step: prompts -> rollouts -> rewards -> advantages -> training -> weights to the engine.

Every rollout is made by exactly the policy that is trained on it; one step ends before the next begins.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from service.contract.stages import RlSpec
from workers.actors.trainer_results import RlPlan
from workers.data.prompt_dataset import prompt_indices_for_step
from workers.rewards.reward import Reward, open_reward
from workers.rollouts import Prompt, SamplingParameters, TrainingSample
from workers.stages.gate import pass_gate
from workers.stages.resume import report_taken_up
from workers.stages.rl_groups import GroupSelection, StepGroups, selection_metrics
from workers.stages.rl_metrics import rollout_metrics
from workers.stages.rollout_store import store_step
from workers.stages.sampling import JudgedGroup, judge, make_requests, shown_samples, verify_completions
from workers.stages.stage_context import StageContext, StageOutcome
from workers.stages.step_sampling import StepSampling, rl_sampling
from workers.stages.stopping import stop_if_asked

logger = logging.getLogger(__name__)

_NUM_SHOWN = 8
_SETTLE_S = 2.0
"""What a checkpoint waits for its steps' metrics to arrive; milliseconds while the service answers."""


def run_rl(context: StageContext, spec: RlSpec, *, num_sft_steps: int) -> StageOutcome:
    """Train from where SFT ended, or from the newest valid checkpoint, to the last step, and export the model.

    Evaluations on the way stand at the steps of both stages; `num_sft_steps` are those that SFT has done.
    """
    context.reports.progress("rl", "preparing data", 0, spec.num_steps)
    with open_reward(spec.reward, context.check) as reward:
        return _run(context, spec, reward, num_sft_steps)


def _run(context: StageContext, spec: RlSpec, reward: Reward, num_sft_steps: int) -> StageOutcome:
    loop = _RlLoop(
        context=context,
        spec=spec,
        prompts=context.load_prompts(spec.data, context.spec.model.max_model_len - spec.max_completion_length, None),
        reward=reward,
        sampling=rl_sampling(context, num_steps=spec.num_steps, num_sft_steps=num_sft_steps),
    )
    plan = loop.take_up()
    with context.give_way.postponed():
        for step in range(plan.first_step, spec.num_steps + 1):
            loop.stop_if_asked()
            loop.run_step(step)
    context.reports.progress("rl", "exporting the model", loop.steps_done, spec.num_steps)
    return StageOutcome(
        steps_done=loop.steps_done,
        steps_planned=spec.num_steps,
        metrics=loop.metrics,
        checkpoint=context.trainer.export(context.model_folder("rl")),
        detail=asdict(plan)
        | {"num_prompts": len(loop.prompts), "num_tokens": loop.num_tokens, "sampled": loop.sampling.as_detail()},
    )


@dataclass(slots=True, kw_only=True)
class _RlLoop:
    context: StageContext
    spec: RlSpec
    prompts: list[Prompt]
    reward: Reward
    sampling: StepSampling
    steps_done: int = 0
    num_tokens: int = 0
    """Completion tokens trained since the stage began, those of earlier attempts included."""
    metrics: dict[str, float] = field(default_factory=dict)

    def take_up(self) -> RlPlan:
        """Load the newest checkpoint, if any, and give the engine those weights before it makes a rollout."""
        context = self.context
        context.trainer.wait_loaded()
        plan = context.trainer.prepare_rl(self.spec, context.checkpoint_root("rl"))
        report_taken_up(context, "rl", plan)
        self.steps_done, self.num_tokens = plan.first_step - 1, plan.num_tokens
        context.versions.trainer = plan.policy_version if plan.resumed_from else context.num_sft_versions
        context.reports.progress("rl", "starting rollout engine", self.steps_done, self.spec.num_steps)
        context.engine.wait_started()
        context.reports.progress("rl", "syncing weights", self.steps_done, self.spec.num_steps)
        context.bring_engine_up_to_date()
        if self.spec.gate is not None and plan.first_step == 1:
            pass_gate(context, self.spec, self.spec.gate, self.prompts, self.reward)
        self.sampling.take_up(self.steps_done)
        return plan

    def run_step(self, step: int) -> None:
        """One round; the step's time covers everything but the checkpoint."""
        clock = _Clock()
        with clock.measure("step"):
            selection = GroupSelection(self.spec)
            groups = self._rollouts(step, selection, clock)
            chosen = selection.result()
            samples = selection.samples(chosen.groups)
            trained = self._train(step, samples, clock)
            self._store(step, chosen, samples, trained)
            with clock.measure("update_weights"):
                self._progress("syncing weights", step - 1)
                self.context.bring_engine_up_to_date()
        self.steps_done = step
        self._report(step, groups, chosen, trained, clock)
        if step % self.spec.save_steps == 0 or step == self.spec.num_steps:
            self._progress("saving a checkpoint", step)
            # A driver that dies takes unsent reports along; its successor begins behind the checkpoint's steps.
            self.context.reports.settle(_SETTLE_S)
            self.context.trainer.save_rl(step, self.context.versions.trainer)
        self.sampling.reached(step)

    def stop_if_asked(self) -> None:
        """Between two steps: with a checkpoint of the last one, which may have been written already."""
        trainer, step = self.context.trainer, self.steps_done
        version = self.context.versions.trainer
        stop_if_asked(self.context, "rl", step, self.spec.num_steps, lambda: trainer.save_rl(step, version))

    def _rollouts(self, step: int, selection: GroupSelection, clock: "_Clock") -> list[JudgedGroup]:
        """All groups that are generated for the step: in one batch, or in as many as the selection asks for."""
        groups: list[JudgedGroup] = []
        for batch in range(self.spec.dynamic_sampling.max_gen_batches):
            groups += (made := self._generate(step, batch, clock))
            selection.add(made)
            if selection.is_full:
                break
        return groups

    def _generate(self, step: int, batch: int, clock: "_Clock") -> list[JudgedGroup]:
        """Each step owns the next `max_gen_batches` batches of prompts, also those that it does not need: which
        prompts a step asks follows from its number alone, in a resumed run too."""
        seed, most = self.context.spec.seed, self.spec.dynamic_sampling.max_gen_batches
        place = (step - 1) * most + batch + 1
        indices = prompt_indices_for_step(len(self.prompts), self.spec.num_prompts_per_step, place, seed)
        asked = [self.prompts[index] for index in indices]
        requests = make_requests(asked, self.spec.num_generations, seed, "rl", place)
        sampling = SamplingParameters(
            temperature=self.spec.temperature, max_completion_length=self.spec.max_completion_length
        )
        self._progress("generating", step - 1)
        with clock.measure("gen"):
            completions = self.context.engine.generate(requests, sampling)
        verify_completions(requests, completions, self.context.versions.engine)
        with clock.measure("reward"):
            return judge(asked, completions, self.reward)

    def _train(self, step: int, samples: list[TrainingSample], clock: "_Clock") -> dict[str, float]:
        self._progress("training", step - 1)
        with clock.measure("update_actor"):
            metrics = self.context.trainer.rl_step(step, samples, temperature=self.spec.temperature)
        self.context.versions.trainer += 1
        return metrics

    def _store(self, step: int, chosen: StepGroups, samples: list[TrainingSample], trained: dict[str, float]) -> None:
        """Keep what was trained, if this is one of the steps that are kept."""
        if self.spec.rollout_store_steps and step % self.spec.rollout_store_steps == 0:
            groups = [group.judged for group in chosen.groups]
            store_step(self.context.output_dir, step, self.context.spec, groups, samples, trained)

    def _report(
        self, step: int, groups: list[JudgedGroup], chosen: StepGroups, trained: dict[str, float], clock: "_Clock"
    ) -> None:
        num_tokens = sum(sum(group.lengths) for group in chosen.groups)
        self.num_tokens += num_tokens
        self.metrics = {
            **rollout_metrics(groups),
            **selection_metrics(self.spec, len(groups), chosen),
            **self.reward.take_metrics(),
            **self.context.engine.take_metrics(),
            **trained,
            **{f"timing_s/{phase}": seconds for phase, seconds in clock.seconds.items()},
            "perf/throughput": num_tokens / clock.seconds["step"],
            "training/policy_version": float(self.context.versions.engine),
            "training/num_tokens": float(self.num_tokens),
        }
        self.context.reports.points(step, self.metrics)
        self.context.reports.rollouts(shown_samples(groups, "rl", step, _NUM_SHOWN))
        self._progress("training", step)

    def _progress(self, phase: str, steps_done: int) -> None:
        self.context.reports.progress("rl", phase, steps_done, self.spec.num_steps)


class _Clock:
    """Seconds by phase; what a phase takes several times adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - began
