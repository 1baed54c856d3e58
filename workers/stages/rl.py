"""Reinforcement learning: rollouts -> rewards -> advantages -> training -> weights to the engine, step after step.

Where a step's rollouts come from is the mode's business (`rollout_source`): made by exactly the policy that is trained
on them, or ahead of time, while the trainer works.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from service.contract.stages import RlSpec
from workers.actors.trainer_results import ConsumedPrompts, RlCarried, RlPlan
from workers.rewards.reward import Reward, open_reward
from workers.rewards.reward_thread import open_reward_in_thread
from workers.rollouts import Prompt, TrainingSample
from workers.stages.gate import pass_gate
from workers.stages.resume import report_taken_up
from workers.stages.rl_groups import StepGroups
from workers.stages.rl_metrics import TrainedStep, step_metrics
from workers.stages.rollout_source import RolloutsInStep, RolloutSource
from workers.stages.rollout_store import StepToStore, store_rollouts
from workers.stages.rollouts_ahead import rollouts_ahead
from workers.stages.sampling import JudgedGroup, shown_samples
from workers.stages.stage_context import StageContext, StageOutcome
from workers.stages.step_clock import StepClock
from workers.stages.step_rollouts import FinishedGroups, StepRolloutMaker
from workers.stages.step_sampling import StepSampling, rl_sampling
from workers.stages.stopping import stop_if_asked
from workers.stages.untrained_groups import data_digest, decode_groups, encode_groups, require_same_prompts

logger = logging.getLogger(__name__)

_NUM_SHOWN = 8
_SETTLE_S = 2.0
"""What a checkpoint waits for its steps' metrics to arrive; milliseconds while the service answers."""


def run_rl(context: StageContext, spec: RlSpec, *, num_sft_steps: int) -> StageOutcome:
    """Train from where SFT ended, or from the newest valid checkpoint, to the last step, and export the model.

    Evaluations on the way stand at the steps of both stages; `num_sft_steps` are those that SFT has done.
    """
    context.reports.progress("rl", "preparing data", 0, spec.num_steps)
    open_it = open_reward if spec.mode == "sync" else open_reward_in_thread
    with open_it(spec.reward, context.check) as reward:
        prompts = context.load_prompts(spec.data, context.spec.model.max_model_len - spec.max_completion_length, None)
        maker = StepRolloutMaker(context, spec, prompts, reward)
        with _source(context, spec, maker) as source:
            return _run(
                _RlLoop(
                    context=context,
                    spec=spec,
                    prompts=prompts,
                    reward=reward,
                    maker=maker,
                    source=source,
                    sampling=rl_sampling(context, num_steps=spec.num_steps, num_sft_steps=num_sft_steps),
                    data_sha256=data_digest(prompts),
                )
            )


@contextmanager
def _source(context: StageContext, spec: RlSpec, maker: StepRolloutMaker) -> Iterator[RolloutSource]:
    if spec.mode == "sync":
        yield RolloutsInStep(maker)
        return
    with rollouts_ahead(maker, spec, context.check) as source:
        yield source


def _run(loop: "_RlLoop") -> StageOutcome:
    context, num_steps = loop.context, loop.spec.num_steps
    plan = loop.take_up()
    with context.give_way.postponed():
        for step in range(plan.first_step, num_steps + 1):
            loop.stop_if_asked()
            loop.run_step(step)
    context.reports.progress("rl", "exporting the model", loop.steps_done, num_steps)
    facts = asdict(plan)
    del facts["carried"]
    return StageOutcome(
        steps_done=loop.steps_done,
        steps_planned=num_steps,
        metrics=loop.metrics,
        checkpoint=context.trainer.export(context.model_folder("rl")),
        detail=facts
        | {
            "num_prompts": len(loop.prompts),
            "prompts_sha256": loop.data_sha256,
            "num_tokens": loop.num_tokens,
            "sampled": loop.sampling.as_detail(),
        },
    )


@dataclass(slots=True, kw_only=True)
class _RlLoop:
    context: StageContext
    spec: RlSpec
    prompts: list[Prompt]
    reward: Reward
    maker: StepRolloutMaker
    source: RolloutSource
    sampling: StepSampling
    data_sha256: str
    steps_done: int = 0
    num_tokens: int = 0
    """Completion tokens trained since the stage began, those of earlier attempts included."""
    metrics: dict[str, float] = field(default_factory=dict)

    def take_up(self) -> RlPlan:
        """Load the newest checkpoint, if any, and give the engine those weights before it makes a rollout.

        May be called again, when the trainer has been replaced: then the loop goes on behind that checkpoint.
        """
        context = self.context
        self.source.stop()
        context.trainer.wait_loaded()
        plan = context.trainer.prepare_rl(self.spec, context.checkpoint_root("rl"))
        report_taken_up(context, "rl", plan)
        self.steps_done, self.num_tokens = plan.first_step - 1, plan.num_tokens
        finished = self._finished_groups(plan)
        context.versions.trainer = plan.policy_version if plan.resumed_from else context.num_sft_versions
        self._progress("starting rollout engine", self.steps_done)
        context.engine.wait_started()
        self._progress("syncing weights", self.steps_done)
        context.bring_engine_up_to_date()
        if self.spec.gate is not None and plan.first_step == 1:
            pass_gate(context, self.spec, self.spec.gate, self.prompts, self.reward)
        self.source.begin(plan.first_step, finished)
        self.sampling.take_up(self.steps_done)
        return plan

    def run_step(self, step: int) -> None:
        """One round; the step's time covers everything but the checkpoint."""
        clock, idle_before_s = StepClock(), self.maker.engine_clock.idle_s()
        with clock.measure("step"):
            self._progress("generating", step - 1)
            with clock.measure("wait_for_rollouts"):
                rollouts = self.source.take(step)
            chosen = rollouts.selection.result()
            samples = rollouts.selection.samples(chosen.groups)
            trained = self._train(step, samples, clock)
            self._store(step, rollouts.groups, chosen, samples, trained)
            with clock.measure("update_weights"):
                self._progress("syncing weights", step - 1)
                synced = self.context.bring_engine_up_to_date()
            self.source.weights_taken(step)
        self.steps_done = step
        clock.seconds["rollout_idle"] = self.maker.engine_clock.idle_s() - idle_before_s
        self._report(
            TrainedStep(
                step=step, rollouts=rollouts, chosen=chosen, trained={**trained, **synced}, seconds=clock.seconds
            )
        )
        if step % self.spec.save_steps == 0 or step == self.spec.num_steps:
            self._save(step)
        self.sampling.reached(step)

    def stop_if_asked(self) -> None:
        """Between two steps: with a checkpoint of the last one, which may have been written already."""
        step = self.steps_done
        stop_if_asked(self.context, "rl", step, self.spec.num_steps, lambda: self._save(step))

    def _train(self, step: int, samples: list[TrainingSample], clock: StepClock) -> dict[str, float]:
        self._progress("training", step - 1)
        with clock.measure("update_actor"):
            metrics = self.context.trainer.rl_step(step, samples, temperature=self.spec.temperature)
        self.context.versions.trainer += 1
        return metrics

    def _store(
        self,
        step: int,
        generated: list[JudgedGroup],
        chosen: StepGroups,
        samples: list[TrainingSample],
        metrics: dict[str, float],
    ) -> None:
        """Keep what the specification wants kept of the step."""
        trained = StepToStore(
            step=step,
            trained_version=self.context.versions.trainer - 1,
            generated=generated,
            groups=[group.judged for group in chosen.groups],
            samples=samples,
            metrics=metrics,
        )
        store_rollouts(self.context.output_dir, self.context.spec, trained)

    def _report(self, done: TrainedStep) -> None:
        self.num_tokens += done.num_tokens
        self.metrics = step_metrics(done, self.spec, self.maker.trained_version(done.step)) | {
            **self.reward.metrics_of(done.rollouts.tally),
            **self.context.engine.take_metrics(),
            "training/policy_version": float(self.context.versions.engine),
            "training/num_tokens": float(self.num_tokens),
        }
        self.context.reports.points(done.step, self.metrics)
        self.context.reports.rollouts(shown_samples(done.rollouts.groups, "rl", done.step, _NUM_SHOWN))
        self._progress("training", done.step)

    def _save(self, step: int) -> str:
        self._progress("saving a checkpoint", step)
        # A driver that dies takes unsent reports along; its successor begins behind the checkpoint's steps.
        self.context.reports.settle(_SETTLE_S)
        untrained = encode_groups(self.source.finished_groups())
        carried = RlCarried(consumed_prompts=self._consumed_by(step), untrained_groups=untrained)
        return self.context.trainer.save_rl(step, self.context.versions.trainer, carried)

    def _finished_groups(self, plan: RlPlan) -> list[FinishedGroups]:
        """Those that the checkpoint carries. Raises ConfigError if it has consumed other prompts than are there now."""
        if plan.carried is None:
            return []
        require_same_prompts(plan.carried.consumed_prompts, self._consumed_by(self.steps_done))
        parts = decode_groups(plan.carried.untrained_groups, self.prompts)
        if parts:
            logger.info("groups taken over", extra={"num_groups": sum(len(part.groups) for part in parts)})
        return parts

    def _consumed_by(self, step: int) -> ConsumedPrompts:
        num_places = step * self.spec.num_prompts_per_step * self.spec.dynamic_sampling.max_gen_batches
        return ConsumedPrompts(count=num_places, data_sha256=self.data_sha256)

    def _progress(self, phase: str, steps_done: int) -> None:
        self.context.reports.progress("rl", phase, steps_done, self.spec.num_steps)
