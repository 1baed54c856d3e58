from typing import Any

import pytest
from pydantic import ValidationError

from service.contract.studies import (
    StudySpec,
    arm_names,
    baseline_of,
    num_planned_runs,
    planned_runs,
    with_overrides,
)
from tests.factories import spec_body


def test_each_arm_runs_under_each_seed_and_seeds_come_first() -> None:
    runs = list(planned_runs(study(sft_seeds=[3, 4])))
    assert [(run.arm, run.sft_seed) for run in runs] == [("ce", 3), ("dft", 3), ("ce", 4), ("dft", 4)]
    assert all(run.rl_seed == run.sft_seed for run in runs)
    assert [run.spec().seed for run in runs] == [3, 3, 4, 4]
    assert runs[1].spec().sft is not None and runs[1].body["sft"]["objective"] == {"type": "dft"}


def test_a_null_takes_a_stage_out() -> None:
    arms = [{"name": "ce"}, {"name": "no-sft", "overrides": {"sft": None}}]
    last = list(planned_runs(study(arms=arms)))[-1].spec()
    assert last.sft is None and last.rl is not None


def test_an_arm_without_rl_has_no_seeds_of_rl() -> None:
    made = study(arms=[{"name": "ce"}, {"name": "sft-only", "overrides": {"rl": None}}], rl_seeds=[7, 8])
    runs = list(planned_runs(made))
    assert [(run.arm, run.rl_seed) for run in runs] == [("ce", 7), ("sft-only", 1), ("ce", 8)]
    assert [run.spec().rl_seed for run in runs] == [7, 1, 8]
    assert num_planned_runs(made) == len(runs) == 3


def test_factors_multiply_the_arms_and_each_meets_its_own_baseline() -> None:
    made = study(factors={"sft.num_epochs": [1, 3], "sft.batch_size": [2]})
    names = arm_names(made)
    assert names[:2] == ["ce [sft.num_epochs=1, sft.batch_size=2]", "ce [sft.num_epochs=3, sft.batch_size=2]"]
    assert baseline_of(made, "dft [sft.num_epochs=3, sft.batch_size=2]") == names[1]
    assert made.num_experiments == len(list(planned_runs(made))) == 4
    assert baseline_of(study(), "dft") == "ce"


def test_overrides_leave_the_original_alone_and_go_no_way_through_a_value() -> None:
    body = {"sft": {"objective": {"type": "ce"}}}
    assert with_overrides(body, {"sft.objective.type": "sed", "rl.num_steps": 2}) == {
        "sft": {"objective": {"type": "sed"}},
        "rl": {"num_steps": 2},
    }
    assert body == {"sft": {"objective": {"type": "ce"}}}
    with pytest.raises(ValueError, match=r"type holds 'ce', not an object"):
        with_overrides(body, {"sft.objective.type.deeper": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "sed"}, "no arm"),
        ({"arms": [{"name": "ce"}, {"name": "ce"}]}, "more than once"),
        ({"sft_seeds": [1, 1]}, "twice"),
        ({"sft_seeds": [-1]}, "between 0"),
        ({"base": {"name": "x"}}, "base: name is set by the study"),
        ({"base": {"rl": {"seed": 1}}}, "base: rl.seed is set by the study"),
        ({"arms": [{"name": "ce", "overrides": {"seed": 1}}]}, "arm ce: seed is set by the study"),
        ({"factors": {"rl.seed": [1, 2]}}, "factors: rl.seed is set by the study"),
        ({"factors": {"sft.num_epochs": []}}, "without values"),
        ({"sft_seeds": list(range(1000)), "rl_seeds": list(range(1000))}, "more than the 10000"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(**change)


RL = {
    "data": {"path": "/data/rl.jsonl"},
    "reward": {"type": "countdown"},
    "optimizer": {"learning_rate": 1e-4},
    "num_steps": 2,
    "num_prompts_per_step": 2,
    "num_generations": 2,
    "max_completion_length": 8,
}


def study(**change: Any) -> StudySpec:
    base = {key: value for key, value in spec_body(rl=RL).items() if key not in ("name", "project", "seed")}
    body: dict[str, Any] = {
        "name": "objectives",
        "question": "does DFT leave a better start than CE?",
        "base": base,
        "arms": [{"name": "ce"}, {"name": "dft", "overrides": {"sft.objective": {"type": "dft"}}}],
        "baseline": "ce",
        "sft_seeds": [1],
    }
    return StudySpec.model_validate(body | change)
