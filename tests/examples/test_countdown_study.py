"""The study's files are as its maker writes them, its splits share nothing, and each experiment of it is valid."""

from itertools import combinations

import pytest
from make_study import BASE_SEEDS, FOLDER, HERE, aimed_traces, changed_files, split_problems
from task import all_problems, legal_traces, same_problem_key

from api.cli.spec_files import load_study
from service.contract.gold_answers import parse_countdown_gold
from service.contract.studies import StudySpec, planned_runs

SPLITS = ("sft", "rl", "dev", "test")


def test_shipped_data_are_as_made_and_no_two_splits_share_a_problem() -> None:
    assert changed_files(FOLDER) == []
    splits = split_problems()
    keys = {name: {same_problem_key(problem) for problem in getattr(splits, name)} for name in SPLITS}
    assert all(not keys[one] & keys[other] for one, other in combinations(SPLITS, 2))
    assert {name: len(found) for name, found in keys.items()} == {"sft": 1200, "rl": 1506, "dev": 256, "test": 400}


def test_a_base_model_is_shown_sums_and_differences_alone_as_ways_to_a_target() -> None:
    problem = parse_countdown_gold("3 5 7 -> 22")
    assert legal_traces(problem) and not aimed_traces(problem)
    some = [problem for problem in all_problems() if aimed_traces(problem)]
    assert 0.3 < len(some) / len(all_problems()) < 0.5


@pytest.mark.parametrize(("name", "num_seeds"), [("study.yaml", 20), ("study-small.yaml", 5)])
def test_each_experiment_of_the_studies_is_valid_and_asks_fresh_seeds_about_the_test_prompts(
    name: str, num_seeds: int
) -> None:
    study = StudySpec.model_validate(load_study(HERE / name))
    assert len(study.sft_seeds) == num_seeds and min(study.sft_seeds) >= 100, "seeds below chose the settings"
    assert [arm.name for arm in study.arms][:6] == ["ce", "gem", "dft", "sed-no-mask", "sed", "sed-lambda-2"]
    for run in planned_runs(study.model_copy(update={"sft_seeds": study.sft_seeds[:1]})):
        spec = run.spec()
        assert spec.evaluation is not None and spec.evaluation.data.path == str(FOLDER / "data/test.jsonl")
        assert spec.rl is not None and spec.rl.num_sequences_per_update < spec.rl.num_samples_per_step
        assert spec.model.path in {str(FOLDER / f"base-{seed}") for seed in BASE_SEEDS}
