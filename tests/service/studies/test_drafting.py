"""From a study to its experiments, without a database."""

from typing import Any

import pytest

from service.contract.plan import ExperimentPlan, StagePlan
from service.contract.studies import StudySpec
from service.contract.study_changes import StudyChange
from service.errors import InvalidRequest, InvalidSpec
from service.studies import StudyDraft, apply_change, draft_study
from service.studies.costs import Room, kind_of_work, plan_study
from tests.factories import PLAN, study_body


def make(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(study_body(**changes))


def draft(**changes: Any) -> StudyDraft:
    return draft_study("study-1", make(**changes))


def shares(made: StudyDraft) -> dict[str, tuple[int, int]]:
    plan = plan_study(made, dict.fromkeys(made.representatives(), PLAN), {}, 0, None)
    return {share.stage: (share.num_runs, share.num_distinct) for share in plan.stages}


def test_experiments_carry_the_studys_tag_and_its_concurrency_limit() -> None:
    runs = draft(max_running=2).runs
    assert [(run.arm, run.sft_seed) for run in runs] == [("ce", 1), ("sed", 1), ("ce", 2), ("sed", 2)]
    assert {tuple(run.spec.tags) for run in runs} == {("study-1",)}
    assert [limit.model_dump() for limit in runs[0].spec.scheduling.limits] == [{"group": "study-1", "max_running": 2}]


def test_seeds_of_rl_share_their_sft() -> None:
    made = draft(rl_seeds=[10, 11, 12])
    assert shares(made) == {
        "sft": (12, 4),
        "evaluate_after_sft": (12, 4),
        "rl": (12, 12),
        "evaluate_after_rl": (12, 12),
    }
    assert [run.spec.rl_seed for run in made.runs[:4]] == [10, 10, 11, 11]


def test_an_arm_without_rl_runs_once_for_each_sft_seed() -> None:
    arms = [{"name": "ce"}, {"name": "sft-only", "overrides": {"rl": None, "evaluation.points": ["after_sft"]}}]
    made = draft(arms=arms, rl_seeds=[10, 11])
    assert [run.key for run in made.runs if run.arm == "sft-only"] == [("sft-only", 1, 1), ("sft-only", 2, 2)]
    assert len(made.runs) == made.num_planned == 6


def test_a_budget_of_experiments_makes_the_first_ones_only() -> None:
    made = draft(budget={"max_experiments": 3})
    assert (len(made.runs), made.num_planned) == (3, 4)
    later = draft_study("study-1", make(budget={"max_experiments": 4}), {run.key for run in made.runs})
    assert [run.key for run in later.runs] == [("sed", 2, 2)]


def arms_with(overrides: dict[str, Any]) -> dict[str, Any]:
    return {"arms": [{"name": "ce"}, {"name": "sed", "overrides": overrides}]}


WRONG_OBJECTIVE = {"sft.objective": {"type": "sed", "lamda": 1.0}}


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        (arms_with({"sft.num_epoch": 2}), "arms.sed.overrides.sft.num_epoch", "num_epochs"),
        (arms_with(WRONG_OBJECTIVE), "arms.sed.overrides.sft.objective: sft.objective.lamda", "lambda"),
        ({"factors": {"sft.bach_size": [2, 4]}}, "factors.sft.bach_size", "batch_size"),
        ({"base": {**study_body()["base"], "priorty": "low"}}, "base.priorty", "priority"),
    ],
)
def test_an_unknown_key_is_named_by_what_brought_it_with_the_nearest_known_one(
    changes: dict[str, Any], field: str, hint: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        draft(**changes)
    (found,) = refused.value.details["errors"]
    assert found["field"] == field
    assert found["hint"] == f"did you mean {hint!r}?"


@pytest.mark.parametrize(
    ("primary", "message"),
    [
        ({"metric": "pass@8"}, "primary.metric: pass@8 needs more samples than the 4 of a prompt in set 'test'"),
        ({"set": "gsm8k"}, "primary.set: arm ce has no set 'gsm8k', which decides; it has test"),
    ],
)
def test_what_decides_must_be_measured(primary: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        draft(primary=primary)


def test_amendments_add_and_never_replace() -> None:
    spec = apply_change(make(), change(add_sft_seeds=[3]))
    spec = apply_change(spec, change(add_arms=[{"name": "dft", "overrides": {"sft.objective": {"type": "dft"}}}]))
    spec = apply_change(spec, change(budget={"max_gpu_hours": 8.0}))
    spec = apply_change(spec, change(budget={"half_width": 0.02}, max_running=3))
    assert (spec.sft_seeds, [arm.name for arm in spec.arms]) == ([1, 2, 3], ["ce", "sed", "dft"])
    assert (spec.budget.max_gpu_hours, spec.budget.half_width, spec.max_running) == (8.0, 0.02, 3)
    assert apply_change(spec, change(budget={"max_gpu_hours": None})).budget.max_gpu_hours is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"add_sft_seeds": [2, 3]}, "add_sft_seeds: 2 stood in the study already"),
        ({"add_arms": [{"name": "ce"}]}, "add_arms: ce stood in the study already"),
        ({"add_rl_seeds": [7]}, "the study has no rl_seeds"),
        ({"add_sft_seeds": [3, 3]}, "not be valid afterwards: .*seed twice"),
    ],
)
def test_an_amendment_that_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        apply_change(make(), change(**changed))


def change(**values: Any) -> StudyChange:
    return StudyChange.model_validate({"reason": "why", **values})


def test_costs_are_bounds_until_stages_like_these_have_finished() -> None:
    made = draft()
    stages = [StagePlan(stage=stage, num_steps=10, numbers={}) for stage in made.runs[0].spec.stage_names()]
    plans = dict.fromkeys(made.representatives(), ExperimentPlan(stages=stages, num_cpus=2, num_gpus=0, warnings=[]))
    room = Room(num_cpus=4.0, num_gpus=0.0)
    blind = plan_study(made, plans, {}, 0, room)
    assert blind.max_cpu_hours == 4 * 4 * 2.0, "four experiments of four hours at most, two CPUs each"
    assert (blind.cpu_hours, blind.duration_s) == (None, None)
    assert (
        blind.unknown[0] == "the time of evaluate_after_rl: no finished stage of the project has its model, "
        "resources and sizes"
    )

    body = made.runs[0].spec.model_dump(mode="json")
    pace = {(stage.stage, kind_of_work(stage.stage, body)): 1.5 for stage in stages}
    seen = plan_study(made, plans, pace, 7, room)
    assert seen.duration_s == 4 * 4 * 15.0 / 2, "16 distinct stages of 15 s, two experiments at a time"
    assert seen.cpu_hours == pytest.approx(16 * 15.0 * 2 / 3600)
    assert seen.basis.startswith("7 finished stages")
