"""Studies made by hand, whose figures can be worked out on paper."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from service.contract.stages import EvaluationPoint
from service.contract.status import ExperimentStatus
from service.contract.studies import StudySpec
from service.studies.counts import SetCounts
from service.study_report.facts import RunFacts, StepSeries, StudyFacts

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BASE = {
    "model": {"path": "/models/toy"},
    "sft": {"data": {"path": "/d.jsonl"}, "optimizer": {"learning_rate": 1e-3}, "num_epochs": 1, "batch_size": 8},
}
SAMPLES = 4


def study_spec(arms: Sequence[str] = ("ce", "sed"), **changes: Any) -> StudySpec:
    """Of these arms, the first one the baseline."""
    body = {
        "name": "toy study",
        "question": "Does it help?",
        "base": BASE,
        "arms": [{"name": name} for name in arms],
        "baseline": arms[0],
        "sft_seeds": [1, 2, 3, 4, 5, 6, 7, 8],
        "primary": {"metric": "pass@1"},
    }
    return StudySpec.model_validate({**body, **changes})


def counts(num_right: Sequence[int], *, num_samples: int = SAMPLES, uids: Sequence[int] | None = None) -> SetCounts:
    """A set's counts; rewards are 0 and 1."""
    shares = tuple(count / num_samples for count in num_right)
    return SetCounts(
        num_samples=num_samples,
        uids=tuple(uids if uids is not None else range(len(num_right))),
        columns={
            "num_correct": tuple(float(count) for count in num_right),
            "mean_reward": shares,
            "majority": tuple(float(share > 0.5) for share in shares),
        },
    )


def run(arm: str, sft_seed: int, points: Mapping[EvaluationPoint, Any], **facts: Any) -> RunFacts:
    """A run that succeeded; `points` have counts of right ones of the set `test`, or counts by set."""
    sets = {
        point: {
            name: one if isinstance(one, SetCounts) else counts(one)
            for name, one in (found if isinstance(found, Mapping) else {"test": found}).items()
        }
        for point, found in points.items()
    }
    known = {
        "position": 0,
        "arm": arm,
        "sft_seed": sft_seed,
        "rl_seed": sft_seed,
        "experiment_id": f"exp-{arm}-{sft_seed}-{facts.get('rl_seed', sft_seed)}",
        "status": ExperimentStatus.SUCCEEDED,
        "end_reason": "completed",
        "message": "",
        "has_sft": True,
        "has_rl": True,
        "first_set": "test",
        "excluded_at": None,
        "excluded_by": None,
        "excluded_reason": None,
        "points": sets,
        "model": "toy",
        "sft_key": f"{arm} {sft_seed}",
    }
    return RunFacts(**{**known, **facts})


def series(values: Sequence[float]) -> StepSeries:
    """One value a step, from step 1."""
    return StepSeries(steps=np.arange(1, len(values) + 1), values=np.array(values, dtype=float))


def study(runs: Sequence[RunFacts], spec: StudySpec | None = None, **facts: Any) -> StudyFacts:
    """A study of these runs, over."""
    known = {
        "id": "stu-1",
        "project": "default",
        "spec": spec or study_spec(),
        "spec_sha256": "0" * 64,
        "amendments": [],
        "runs": runs,
        "num_planned": len(runs),
        "is_over": True,
        "service_version": "1",
        "lock_sha256": None,
    }
    return StudyFacts(**{**known, **facts})


def random_study(num_seeds: int = 8, *, lead: float = 0.15, num_prompts: int = 20, seed: int = 1) -> StudyFacts:
    """Arms `ce` and `sed` over seeds; `sed` is right more often after RL by `lead`."""
    rng = np.random.default_rng(seed)
    ease_P = rng.uniform(0.3, 0.6, num_prompts)

    def drawn(shift: float) -> list[int]:
        chances_P = np.clip(ease_P + shift + rng.normal(0, 0.02), 0, 1)
        return [int(count) for count in rng.binomial(16, chances_P)]

    runs = [
        run(
            arm,
            number,
            {
                "base": counts(drawn(-0.1), num_samples=16),
                "after_sft": counts(drawn(0.0), num_samples=16),
                "after_rl": counts(drawn(0.1 + (lead if arm == "sed" else 0.0)), num_samples=16),
            },
            metrics={
                point: {"diversity/test/frac_mixed_groups": float(rng.uniform(0.2, 0.8))}
                for point in ("base", "after_sft", "after_rl")
            },
            series={
                "reward/mean": series(rng.random(5).tolist()),
                "timing_s/step": series([2.0] * 5),
                "training/num_tokens": series([10.0, 20.0, 30.0, 40.0, 50.0]),
            },
        )
        for number in range(1, num_seeds + 1)
        for arm in ("ce", "sed")
    ]
    return study(runs)
