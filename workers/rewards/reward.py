"""The reward as a stage uses it: judges batches, combines parts, keeps to the error policy, audits, and counts.

Whatever processes it needs live as long as the block::

    with open_reward(spec.reward, check) as reward:
        verdicts = reward.judge(samples)
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from service.contract.rewards import (
    AuditedReward,
    CombinedReward,
    OnError,
    ProcessReward,
    RewardSpec,
    SingleReward,
    single_rewards,
)
from workers.rewards.answer_keys import AnswerKey, build_answer_key
from workers.rewards.build import build_verifier
from workers.rewards.judge_pool import Check, JudgePool
from workers.rewards.judgement import Judgement
from workers.rewards.reward_counts import RewardCounts, RewardTally
from workers.rewards.samples import RewardFailed, RewardSample, Verifier

logger = logging.getLogger(__name__)

MIN_SAMPLES_FOR_A_BREAKDOWN = 8
"""So many samples without a single score say that the reward is broken, and not its samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The reward of one sample."""

    score: float | None
    """None for a sample that could not be judged and is to be dropped."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The scores of a combined reward's parts by name, without their weights."""


class Reward(Protocol):
    """Judges completions."""

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        """One verdict a sample, in their order.

        Raises GoldUnreadable if a gold answer cannot be read, RewardFailed where the error policy says so or the
        reward judges nothing at all; no completion makes it raise.
        """

    def answer_key(self, completion_text: str) -> str:
        """Equal for completions that count as the same answer."""

    def take_tally(self) -> RewardTally:
        """What was counted over all samples since the last call."""

    def metrics_of(self, tally: RewardTally) -> dict[str, float]:
        """Its figures by metric name; none for a reward that cannot fail and has no parts."""


class _Judge(Protocol):
    def judge(self, samples: Sequence[RewardSample]) -> list[Judgement]:
        """One judgement a sample."""


@contextmanager
def open_reward(spec: RewardSpec, check: Check) -> Iterator[Reward]:
    """The reward that a specification asks for. Raises ConfigError if it cannot work, RewardFailed, and as `check`."""
    with ExitStack() as stack:
        parts = [_open_part(name, weight, single, check, stack) for name, weight, single in _parts(spec)]
        audit = _open_audit(spec, check, stack) if isinstance(spec, AuditedReward) else None
        yield _StageReward(parts, audit, build_answer_key(single_rewards(spec)[0]), has_parts=_is_combined(spec))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    name: str
    weight: float
    judge: _Judge
    on_error: OnError
    can_fail: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Audit:
    spec: AuditedReward
    judge: _Judge

    def chooses(self, sample: RewardSample) -> bool:
        """By a hash, so that a run that is taken up audits the same samples."""
        text = f"{sample.prompt_uid} {sample.sample_index} {sample.completion}"
        digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.spec.fraction * 2**64


class _InProcess:
    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def judge(self, samples: Sequence[RewardSample]) -> list[Judgement]:
        return [Judgement(score=self._verifier.score(sample)) for sample in samples]


class _StageReward:
    """See `Reward`."""

    def __init__(self, parts: list[_Part], audit: _Audit | None, answer_key: AnswerKey, *, has_parts: bool) -> None:
        self._parts, self._audit, self._answer_key = parts, audit, answer_key
        self._counts = RewardCounts(
            part_names=[part.name for part in parts] if has_parts else [],
            can_fail=any(part.can_fail for part in parts),
            has_audit=audit is not None,
        )

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        """See `Reward`."""
        columns = [self._scores(part, samples) for part in self._parts]
        verdicts = [self._combine(scores) for scores in zip(*columns, strict=True)]
        self._counts.add(verdict.score is None for verdict in verdicts)
        if self._audit is not None:
            self._second_opinion(self._audit, samples, verdicts)
        return verdicts

    def answer_key(self, completion_text: str) -> str:
        """See `Reward`."""
        return self._answer_key(completion_text)

    def take_tally(self) -> RewardTally:
        """See `Reward`."""
        return self._counts.take()

    def metrics_of(self, tally: RewardTally) -> dict[str, float]:
        """See `Reward`."""
        return self._counts.metrics(tally)

    def _scores(self, part: _Part, samples: Sequence[RewardSample]) -> list[float | None]:
        judgements = part.judge.judge(samples)
        assert len(judgements) == len(samples), "one judgement a sample"
        failed = [(s, j) for s, j in zip(samples, judgements, strict=True) if j.score is None]
        if failed:
            self._counts.add_failures(judgement for _, judgement in failed)
            _refuse_breakdown(part, failed, len(samples))
            logger.warning(
                "samples not judged",
                extra={
                    "reward": part.name,
                    "count": len(failed),
                    "on_error": part.on_error,
                    "first": failed[0][1].message,
                },
            )
        replacement = 0.0 if part.on_error == "zero" else None
        scores = [replacement if judgement.score is None else judgement.score for judgement in judgements]
        self._counts.add_part(part.name, scores)
        return scores

    def _combine(self, scores: Sequence[float | None]) -> Verdict:
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            return Verdict(score=None)
        if len(self._parts) == 1 and self._parts[0].weight == 1.0:
            return Verdict(score=known[0], parts={self._parts[0].name: known[0]})
        # Exact summation: parts of weight 0.7, 0.2 and 0.1 that are all right make 1.0, which counts as solved.
        total = math.fsum(part.weight * score for part, score in zip(self._parts, known, strict=True))
        names = [part.name for part in self._parts]
        return Verdict(score=total, parts=dict(zip(names, known, strict=True)))

    def _second_opinion(self, audit: _Audit, samples: Sequence[RewardSample], verdicts: Sequence[Verdict]) -> None:
        judged = [
            (sample, verdict.score)
            for sample, verdict in zip(samples, verdicts, strict=True)
            if verdict.score is not None and audit.chooses(sample)
        ]
        opinions = audit.judge.judge([sample for sample, _ in judged])
        for (sample, score), opinion in zip(judged, opinions, strict=True):
            limit = audit.spec.threshold
            differs = opinion.score is not None and (score >= limit) != (opinion.score >= limit)
            self._counts.add_audit(opinion, differs=differs)
            if differs:
                facts = {"prompt_uid": sample.prompt_uid, "sample_index": sample.sample_index}
                logger.info("verifiers disagree", extra={"score": score, "auditor": opinion.score, **facts})


def _parts(spec: RewardSpec) -> list[tuple[str, float, SingleReward]]:
    match spec:
        case AuditedReward():
            return _parts(spec.reward)
        case CombinedReward():
            return [(part.name, part.weight, part.reward) for part in spec.parts]
        case _:
            return [(spec.type, 1.0, spec)]


def _is_combined(spec: RewardSpec) -> bool:
    return isinstance(spec.reward if isinstance(spec, AuditedReward) else spec, CombinedReward)


def _open_part(name: str, weight: float, spec: SingleReward, check: Check, stack: ExitStack) -> _Part:
    can_fail = isinstance(spec, ProcessReward)
    on_error: OnError = spec.on_error if isinstance(spec, ProcessReward) else "fail"
    judge = _open_judge(spec, check, stack)
    return _Part(name=name, weight=weight, judge=judge, on_error=on_error, can_fail=can_fail)


def _open_audit(spec: AuditedReward, check: Check, stack: ExitStack) -> _Audit:
    return _Audit(spec=spec, judge=_open_judge(spec.auditor, check, stack))


def _open_judge(spec: SingleReward, check: Check, stack: ExitStack) -> _Judge:
    if isinstance(spec, ProcessReward):
        return stack.enter_context(closing(JudgePool(spec, check)))
    return _InProcess(build_verifier(spec))


def _refuse_breakdown(part: _Part, failed: Sequence[tuple[RewardSample, Judgement]], num_samples: int) -> None:
    sample, judgement = failed[0]
    where = f"sample {sample.sample_index} of prompt {sample.prompt_uid}"
    what = f"the reward {part.name!r} failed ({judgement.failure}) on {where}: {judgement.message}"
    if part.on_error == "fail":
        raise RewardFailed(f"{what}; on_error 'fail' ends the run, 'zero' and 'drop' go on without it")
    if len(failed) == num_samples >= MIN_SAMPLES_FOR_A_BREAKDOWN:
        raise RewardFailed(f"none of {num_samples} samples could be judged, so the reward itself is broken: {what}")
