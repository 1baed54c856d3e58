"""A world without Ray, torch or vLLM: a policy with one parameter that says "yes" or "no", deterministic to the bit.

Checkpoints outlive the actors, as on a disk, so that an attempt can be broken off and taken up.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from service.contract.data import PromptData
from service.contract.messages import RolloutSample, TokenView
from service.contract.stages import RlSpec, SftSpec, StageName
from workers.actors.trainer_results import ModelFacts, RlCarried, RlPlan, SftEnd, SftPlan, SftSlice, StepMetrics
from workers.rollouts import Completion, EngineFacts, GenerationRequest, Prompt, SamplingParameters, TrainingSample

YES, NO, END = 5, 6, 2
STEPS_PER_EPOCH = 3


@dataclass(slots=True, kw_only=True)
class Disk:
    """What outlives an attempt: per checkpoint root the steps saved, with logit, version and tokens."""

    checkpoints: dict[str, dict[int, tuple[float, int, int]]] = field(default_factory=dict)
    carried: dict[tuple[str, int], RlCarried] = field(default_factory=dict)
    exported: dict[str, float] = field(default_factory=dict)

    def latest(self, root: str) -> tuple[int, float, int, int] | None:
        """Step, logit, version and tokens of the newest checkpoint."""
        steps = self.checkpoints.get(root, {})
        return (max(steps), *steps[max(steps)]) if steps else None


class FakeTrainer:
    """`roles.Trainer`: the logit of "yes"."""

    def __init__(
        self,
        disk: Disk,
        *,
        before_sft_step: Callable[[int], None] = lambda step: None,
        before_rl_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.disk = disk
        self.logit = -2.0
        self.loaded = False
        self.restarts = 0
        self.has_place = True
        self.sft_slices = 0
        self._before_sft_step = before_sft_step
        self._before_rl_step = before_rl_step
        self._root = ""
        self._sft: SftSpec | None = None
        self._step = 0
        self._num_tokens = 0

    def begin_load(self) -> None:
        self.loaded = True

    def wait_loaded(self) -> ModelFacts:
        assert self.loaded
        return ModelFacts(num_parameters=1, vocab_size=7, eos_token_ids=(END,), pad_token_id=0)

    def restart(self) -> bool:
        """All that was in memory is gone."""
        self.restarts += 1
        self.logit, self._sft, self._root, self._step, self._num_tokens = -2.0, None, "", 0, 0
        return self.has_place

    def prepare_sft(self, spec: SftSpec, checkpoint_root: str) -> SftPlan:
        self._sft, self._root = spec, checkpoint_root
        self._resume(checkpoint_root)
        return SftPlan(
            num_samples=8,
            num_held_out=2,
            num_dropped=1,
            num_truncated=0,
            data_sha256="0" * 64,
            tokenizer_sha256="1" * 64,
            template_sha256=None,
            lineage_sha256="2" * 64,
            num_steps=spec.num_epochs * STEPS_PER_EPOCH,
            first_step=self._step + 1,
            tau=None,
            tau_histogram=None,
            tau_num_tokens=0,
            resumed_from=checkpoint_root if self._step else None,
            skipped_checkpoints=(),
        )

    def sft_steps(self, *, max_steps: int, max_seconds: float) -> SftSlice:
        assert self._sft is not None
        self.sft_slices += 1
        last = self._sft.num_epochs * STEPS_PER_EPOCH
        steps: list[StepMetrics] = []
        while self._step < last and len(steps) < min(2, max_steps):
            self._before_sft_step(self._step + 1)
            self._step += 1
            self.logit += 0.1
            steps.append(StepMetrics(step=self._step, values={"sft/loss": -self.logit}))
            if self._step % self._sft.save_steps == 0 or self._step == last:
                self._save(self._step, 0)
        return SftSlice(steps=tuple(steps))

    def save_sft(self) -> str:
        self._save(self._step, 0)
        return f"{self._root}/{self._step}"

    def end_sft(self) -> SftEnd:
        """With the last step's weights, or with those of the oldest checkpoint, which shall be the best."""
        assert self._sft is not None
        if self._sft.export == "last":
            return SftEnd(exported_step=self._step)
        best = min(self.disk.checkpoints[self._root])
        self.logit = self.disk.checkpoints[self._root][best][0]
        return SftEnd(exported_step=best)

    def take_weights(self, checkpoint_root: str, step: int) -> None:
        self.logit = self.disk.checkpoints[checkpoint_root][step][0]

    def prepare_rl(self, spec: RlSpec, checkpoint_root: str) -> RlPlan:
        self._root = checkpoint_root
        version = self._resume(checkpoint_root)
        return RlPlan(
            num_steps=spec.num_steps,
            first_step=self._step + 1,
            num_tokens=self._num_tokens,
            policy_version=version,
            resumed_from=checkpoint_root if self._step else None,
            skipped_checkpoints=(),
            carried=self.disk.carried.get((checkpoint_root, self._step)),
        )

    def rl_step(self, step: int, samples: list[TrainingSample], *, temperature: float) -> dict[str, float]:
        self._before_rl_step(step)
        assert step == self._step + 1
        self._step = step
        self._num_tokens += sum(len(sample.completion_token_ids) for sample in samples)
        chance = probability(self.logit, temperature)
        gradient = sum(
            sample.advantage * ((sample.completion_token_ids[0] == YES) - chance) for sample in samples
        ) / len(samples)
        self.logit += 3.0 * gradient
        return {"actor/grad_norm": abs(gradient)}

    def save_rl(self, step: int, policy_version: int, carried: RlCarried | None = None) -> str:
        assert step == self._step
        if carried is not None:
            self.disk.carried[self._root, step] = carried
        self._save(step, policy_version)
        return f"{self._root}/{step}"

    def export(self, folder: str) -> str:
        self.disk.exported[folder] = self.logit
        return folder

    def _save(self, step: int, version: int) -> None:
        self.disk.checkpoints.setdefault(self._root, {})[step] = (self.logit, version, self._num_tokens)

    def _resume(self, root: str) -> int:
        """The version that was saved, 0 without a checkpoint."""
        latest = self.disk.latest(root)
        if latest is None:
            self._step, self._num_tokens = 0, 0
            return 0
        self._step, self.logit, version, self._num_tokens = latest
        return version


class FakeEngine:
    """`roles.Engine`: draws "yes" or "no" by each request's seed."""

    def __init__(self) -> None:
        self.logit = -2.0
        self.version = 0
        self.eos_token_ids: tuple[int, ...] = (END,)
        self.finish_reason: Literal["stop", "length"] = "stop"
        self.started = False
        self.versions_used: list[int] = []
        self.calls: list[tuple[int, int]] = []
        """Version and number of requests of each generation."""
        self.requests: list[GenerationRequest] = []
        self.failure: Exception | None = None

    def begin_start(self) -> None:
        self.started = True

    def check_start(self) -> None:
        if self.failure is not None:
            raise self.failure

    def wait_started(self) -> EngineFacts:
        assert self.started
        self.check_start()
        return EngineFacts(vllm_version="0", eos_token_ids=self.eos_token_ids, start_s=0.0)

    def generate(self, requests: list[GenerationRequest], sampling: SamplingParameters) -> list[Completion]:
        self.versions_used.append(self.version)
        self.calls.append((self.version, len(requests)))
        self.requests += requests
        return [self._complete(request, sampling) for request in requests]

    def take_metrics(self) -> dict[str, float]:
        return {"engines/num_ready": 1.0, "engines/num_reissued": 0.0}

    def _complete(self, request: GenerationRequest, sampling: SamplingParameters) -> Completion:
        chance = probability(self.logit, sampling.temperature)
        says_yes = random.Random(request.seed).random() < chance
        return Completion(
            prompt_uid=request.prompt.uid,
            sample_index=request.sample_index,
            token_ids=(YES if says_yes else NO, END),
            logprobs=(math.log(chance if says_yes else 1.0 - chance), 0.0),
            finish_reason=self.finish_reason,
            text="yes" if says_yes else "no",
            policy_version=self.version,
        )


class FakeSync:
    """`roles.WeightSync`: copies the logit."""

    def __init__(self, trainer: FakeTrainer, engine: FakeEngine) -> None:
        self._trainer, self._engine = trainer, engine
        self.trainers_replaced = 0

    def __call__(self, version: int) -> dict[str, float]:
        self._engine.logit, self._engine.version = self._trainer.logit, version
        return {"weight_sync/probe_logprob_abs_diff_max": 0.0}

    def trainer_replaced(self) -> None:
        self.trainers_replaced += 1


class RecordedReports:
    """`roles.Reports`: keeps everything."""

    def __init__(self) -> None:
        self.values: list[tuple[str, int, float]] = []
        self.samples: list[RolloutSample] = []
        self.phases: list[tuple[StageName | None, str, int, int]] = []
        self.settled_steps: list[int] = []
        self.views: list[TokenView] = []
        self.events: list[tuple[str, dict[str, JsonValue]]] = []

    def points(self, step: int, values: Mapping[str, float]) -> None:
        self.values += [(name, step, value) for name, value in values.items()]

    def rollouts(self, samples: Iterable[RolloutSample]) -> None:
        self.samples += samples

    def token_views(self, views: Iterable[TokenView]) -> None:
        self.views += views

    def event(self, kind: str, message: str, detail: Mapping[str, JsonValue]) -> None:
        assert message
        self.events.append((kind, dict(detail)))

    def progress(self, stage: StageName | None, phase: str, step: int, num_steps: int) -> None:
        self.phases.append((stage, phase, step, num_steps))

    def settle(self, deadline_s: float) -> None:
        assert 0 < deadline_s <= 5
        self.settled_steps.append(self.values[-1][1])

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric."""
        return [(step, value) for found, step, value in self.values if found == name]


def fake_prompts(data: PromptData, max_prompt_tokens: int, limit: int | None) -> list[Prompt]:
    """Five prompts whose right answer is "yes"."""
    return [Prompt(uid=uid, text=f"question {uid}", token_ids=(3, 4), answer="yes") for uid in range(5)][:limit]


def probability(logit: float, temperature: float) -> float:
    """Of "yes"."""
    return 1.0 / (1.0 + math.exp(-logit / temperature))
