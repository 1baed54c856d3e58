"""Sampling the evaluation's set within a training stage: after chosen steps, once each, however often it is taken up.

    trainer stops after step k ──> engine takes its weights ──> set sampled ──> result written down ──> trainer goes on

The trainer never passes such a step before its result is written down, and where that step has a checkpoint, it is
written before. So whoever takes the run up at a later step finds the results of all steps before, and at step k itself
the file tells whether the driver died before or after it. If the run goes back to an older checkpoint, the steps are
trained again but the set is not sampled again: a version names the same policy. Results that were found are reported
again: the last report of the driver that died may be lost, and the service keeps one value per step.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any, Literal

import fsspec

from service.contract.evaluation import EvaluationSpec
from service.contract.stages import EvaluationPoint
from workers.config_error import ConfigError
from workers.stages.evaluate import (
    Evaluated,
    EvaluationPlace,
    PromptsOfSets,
    load_evaluation_prompts,
    sample_sets,
)
from workers.stages.stage_context import StageContext

logger = logging.getLogger(__name__)

_AT_THE_END: dict[str, EvaluationPoint] = {"sft": "after_sft", "rl": "after_rl"}


def sft_sampling(context: StageContext, *, num_steps: int) -> "StepSampling":
    """After the steps of SFT that the evaluation names; raises ConfigError if one lies beyond the last."""
    steps = context.sampled_sft_steps
    if steps and steps[-1] > num_steps:
        raise ConfigError(
            f"evaluation.sft_steps {steps[-1]} lies beyond the {num_steps} steps of SFT; take it out, or train longer"
        )
    return StepSampling(context, "sft", steps, num_steps=num_steps)


def rl_sampling(context: StageContext, *, num_steps: int, num_sft_steps: int) -> "StepSampling":
    """After every `evaluation.rl_eval_steps` steps of reinforcement learning."""
    every = context.spec.evaluation.rl_eval_steps if context.spec.evaluation else None
    steps = range(every, num_steps + 1, every) if every else []
    return StepSampling(context, "rl", steps, num_steps=num_steps, num_steps_before=num_sft_steps)


class StepSampling:
    """The steps of a stage after which the set is sampled, and their results so far."""

    def __init__(
        self,
        context: StageContext,
        stage: Literal["sft", "rl"],
        steps: Sequence[int],
        *,
        num_steps: int,
        num_steps_before: int = 0,
    ) -> None:
        """`steps` rise, up to `num_steps`; `num_steps_before` were trained by the stages before."""
        self._context = context
        self._stage = stage
        self._num_steps = num_steps
        self._num_steps_before = num_steps_before
        self._prompts: PromptsOfSets | None = None
        points = context.spec.evaluation.points if context.spec.evaluation else []
        # That point samples the same set, at the same place of its metrics.
        is_left_to_the_end = _AT_THE_END[stage] in points
        self._steps = [step for step in steps if not (step == num_steps and is_left_to_the_end)]
        self._results: dict[int, Evaluated] = {}

    def num_steps_until_next(self, step: int) -> int | None:
        """How far the trainer may go from `step`; None where no sampling stands ahead."""
        return next((ahead - step for ahead in self._steps if ahead > step), None)

    def take_up(self, step: int) -> None:
        """Report what was sampled before `step`, where an attempt begins, and do what belongs to that step itself."""
        for done in self._steps:
            if done < step:
                self._recall(done)
        self.reached(step)

    def reached(self, step: int) -> None:
        """Sample if `step` is one of the chosen ones and no attempt has done so."""
        if step in self._steps and not self._recall(step):
            self._sample(step)

    def as_detail(self) -> list[dict[str, Any]]:
        """Metrics and counts of right samples by step, for the stage's result; the files have the other columns."""
        return [
            {"step": step, "metrics": found.metrics, **_counts(found.detail)}
            | {"further_sets": {name: _counts(detail) for name, detail in found.detail.get("further_sets", {}).items()}}
            for step, found in self._results.items()
        ]

    def _recall(self, step: int) -> bool:
        """Report the result that was written down; says whether there was one."""
        found = self._read(step)
        if found is not None:
            self._report(step, found)
        return found is not None

    def _sample(self, step: int) -> None:
        context, spec = self._context, self._spec
        context.versions.trainer = context.policy_version(self._stage, step)
        self._show("starting rollout engine", step)
        context.engine.wait_started()
        self._show("syncing weights", step)
        context.bring_engine_up_to_date()
        if self._prompts is None:
            self._prompts = load_evaluation_prompts(context, spec)
        place = EvaluationPlace(stage=self._stage, global_step=self._num_steps_before + step)
        found = sample_sets(context, spec, place, self._prompts, lambda phase, _: self._show(phase, step))
        if self._stage == "sft":
            # Reinforcement learning shows completions of its own; the set's would stand among them unmarked.
            context.reports.rollouts(found.shown)
        self._report(step, found)
        self._write(step, found)

    def _report(self, step: int, found: Evaluated) -> None:
        self._results[step] = found
        self._context.reports.points(self._num_steps_before + step, found.metrics)

    def _show(self, phase: str, step: int) -> None:
        self._context.reports.progress(self._stage, phase, step, self._num_steps)

    @property
    def _spec(self) -> EvaluationSpec:
        spec = self._context.spec.evaluation
        assert spec is not None, "no step is sampled without an evaluation"
        return spec

    def _path(self, step: int) -> str:
        return f"{self._context.evaluation_folder(self._stage)}/step-{step:08d}.json"

    def _read(self, step: int) -> Evaluated | None:
        """What was written down; a file that its writer didn't finish does not count."""
        filesystem, path = fsspec.core.url_to_fs(self._path(step))
        try:
            found: Any = json.loads(filesystem.cat_file(path))
            metrics = {str(name): float(value) for name, value in found["metrics"].items()}
            return Evaluated(num_prompts=int(found["detail"]["num_prompts"]), metrics=metrics, detail=found["detail"])
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            logger.warning("evaluation unreadable, sampling again", extra={"path": path, "error": str(error)})
            return None

    def _write(self, step: int, found: Evaluated) -> None:
        filesystem, path = fsspec.core.url_to_fs(self._path(step))
        filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        filesystem.pipe_file(path, json.dumps({"metrics": found.metrics, "detail": found.detail}).encode())


def _counts(detail: dict[str, Any]) -> dict[str, Any]:
    per_prompt = {name: detail["per_prompt"][name] for name in ("uid", "num_correct")}
    return {"num_generations": detail["num_generations"], "per_prompt": per_prompt}
