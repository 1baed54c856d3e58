"""Sampling the evaluation's set during SFT: after chosen steps, once each, however often the run is taken up.

    trainer stops after step k ──> engine takes its weights ──> set sampled ──> result written down ──> trainer goes on

The trainer never passes such a step before its result is written down, and writes its checkpoint of that step before.
So whoever takes the run up at a later step finds the results of all steps before, and at step k itself the file tells
whether the driver died before or after it. Results that were found are reported again: the last report of the driver
that died may be lost, and the service keeps one value per step.
"""

import json
import logging
from typing import Any

import fsspec

from service.contract.stages import EvaluationSpec
from workers.config_error import ConfigError
from workers.rollouts import Prompt
from workers.stages.evaluate import EvaluationPlace, load_evaluation_prompts, sample_and_judge
from workers.stages.stage_context import StageContext

logger = logging.getLogger(__name__)


class SftSampling:
    """The steps after which the set is sampled, and their results so far."""

    def __init__(self, context: StageContext, *, num_steps: int) -> None:
        """Raises ConfigError if a step lies beyond the last of `num_steps`."""
        self._context = context
        self._num_steps = num_steps
        self._prompts: list[Prompt] | None = None
        self._steps = list(context.sampled_sft_steps)
        if self._steps and self._steps[-1] > num_steps:
            raise ConfigError(
                f"evaluation.sft_steps {self._steps[-1]} lies beyond the {num_steps} steps of SFT; "
                "take it out, or train longer"
            )
        points = context.spec.evaluation.points if context.spec.evaluation else []
        if self._steps and self._steps[-1] == num_steps and "after_sft" in points:
            # That point samples the same set, at the same place of its metrics.
            self._steps.pop()
        self.results: dict[int, dict[str, float]] = {}
        """Metrics by step."""

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

    def _recall(self, step: int) -> bool:
        """Report the result that was written down; says whether there was one."""
        found = self._read(step)
        if found is not None:
            self._report(step, found)
        return found is not None

    def _sample(self, step: int) -> None:
        context, spec = self._context, self._spec
        context.versions.trainer = context.sft_version(step)
        self._show("starting rollout engine", step)
        context.engine.wait_started()
        self._show("syncing weights", step)
        context.bring_engine_up_to_date()
        if self._prompts is None:
            self._prompts = load_evaluation_prompts(context, spec)
        place = EvaluationPlace(stage="sft", global_step=step)
        found = sample_and_judge(context, spec, place, self._prompts, lambda phase, _: self._show(phase, step))
        self._report(step, found.metrics)
        self._write(step, found.metrics)

    def _report(self, step: int, metrics: dict[str, float]) -> None:
        self.results[step] = metrics
        self._context.reports.points(step, metrics)

    def _show(self, phase: str, step: int) -> None:
        self._context.reports.progress("sft", phase, step, self._num_steps)

    @property
    def _spec(self) -> EvaluationSpec:
        spec = self._context.spec.evaluation
        assert spec is not None, "no step is sampled without an evaluation"
        return spec

    def _path(self, step: int) -> str:
        return f"{self._context.evaluation_folder('sft')}/step-{step:08d}.json"

    def _read(self, step: int) -> dict[str, float] | None:
        """The metrics that were written down; a file that its writer didn't finish does not count."""
        filesystem, path = fsspec.core.url_to_fs(self._path(step))
        try:
            found: Any = json.loads(filesystem.cat_file(path))
            return {str(name): float(value) for name, value in found.items()}
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError) as error:
            logger.warning("evaluation unreadable, sampling again", extra={"path": path, "error": str(error)})
            return None

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        filesystem, path = fsspec.core.url_to_fs(self._path(step))
        filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        filesystem.pipe_file(path, json.dumps(metrics).encode())
