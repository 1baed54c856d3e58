"""What a specification accepts, refuses and fills in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.contract.json_schema import DEFAULT_PATH, experiment_schema, main, schema_text
from service.contract.spec import ExperimentSpec
from service.contract.strict_model import describe_errors
from tests.factories import make_spec, spec_body

RL: dict[str, Any] = {
    "data": {"path": "/data/rl.jsonl"},
    "reward": {"type": "countdown"},
    "optimizer": {"learning_rate": 3e-4},
    "num_steps": 5,
    "num_prompts_per_step": 2,
    "num_generations": 4,
    "max_completion_length": 32,
}
EVALUATION: dict[str, Any] = {
    "data": {"path": "/data/test.jsonl"},
    "reward": {"type": "exact_match"},
    "max_completion_length": 32,
}


def findings(**changes: Any) -> list[dict[str, Any]]:
    with pytest.raises(ValidationError) as refused:
        make_spec(**changes)
    return describe_errors(refused.value, ExperimentSpec)


def test_the_canonical_form_reads_back_as_the_same() -> None:
    spec = make_spec(rl=RL, evaluation=EVALUATION, tags=["a"])
    again = ExperimentSpec.model_validate_json(spec.canonical_json())
    assert (again, again.sha256()) == (spec, spec.sha256())


def test_defaults_that_are_spelled_out_make_no_other_digest() -> None:
    assert make_spec(seed=0, priority="normal").sha256() == make_spec().sha256()
    assert make_spec(seed=1).sha256() != make_spec().sha256()


def test_engines_are_held_only_where_something_asks_them() -> None:
    wanted = {"trainer": {"num_cpus": 2}, "rollout": {"num_cpus": 3, "num_engines": 2}}

    assert make_spec(resources=wanted).held_resources.num_cpus == 2
    assert make_spec(rl=RL, resources=wanted).held_resources.num_cpus == 8
    assert make_spec(resources={"placement": "colocated"}).held_resources.num_cpus == 1


def test_who_shares_a_bundle_counts_threads_once() -> None:
    shared = {"trainer": {"num_cpus": 2, "num_ranks": 2}, "rollout": {"num_cpus": 4}, "placement": "colocated"}
    resources = make_spec(resources=shared).resources
    assert [bundle.num_cpus for bundle in resources.bundles] == [4.0, 2.0]
    assert (resources.num_cpus, resources.num_gpus) == (6.0, 0.0)
    parts = {"trainer": {"num_gpus": 0.4}, "rollout": {"num_gpus": 0.6, "num_engines": 2}, "placement": "colocated"}
    assert [bundle.num_gpus for bundle in make_spec(resources=parts).resources.bundles] == [1.0, 0.6]


@pytest.mark.parametrize(("trainer", "rollout"), [(0.6, 0.6), (1, 0), (0, 0.5), (1, 1)])
def test_one_gpu_is_all_there_is_to_share(trainer: float, rollout: float) -> None:
    shares = {"trainer": {"num_gpus": trainer}, "rollout": {"num_gpus": rollout}, "placement": "colocated"}
    [finding] = findings(resources=shares)
    assert "parts of it that come to 1 at most" in finding["problem"]


def test_working_by_turns_and_working_ahead_exclude_each_other() -> None:
    [finding] = findings(rl=RL | {"mode": "async"}, resources={"placement": "colocated"})
    assert "at the same time" in finding["problem"]
    assert make_spec(rl=RL, resources={"placement": "colocated"}).resources.num_cpus == 1.0


@pytest.mark.parametrize(
    ("given_stages", "names"),
    [
        ({}, ["sft"]),
        ({"rl": RL}, ["sft", "rl"]),
        ({"sft": None, "rl": RL, "evaluation": EVALUATION}, ["evaluate_base", "rl", "evaluate_after_rl"]),
        ({"sft": None, "evaluation": EVALUATION}, ["evaluate_base"]),
        (
            {"rl": RL, "evaluation": EVALUATION},
            ["sft", "evaluate_base", "evaluate_after_sft", "rl", "evaluate_after_rl"],
        ),
    ],
)
def test_stages_run_in_their_order(given_stages: dict[str, Any], names: list[str]) -> None:
    assert make_spec(**given_stages).stage_names() == names


def test_resources_are_summed_over_ranks_and_engines() -> None:
    resources = make_spec(
        resources={
            "trainer": {"num_ranks": 2, "num_cpus": 4},
            "rollout": {"num_engines": 3, "num_cpus": 2, "num_gpus": 2, "tensor_parallel_size": 2},
        }
    ).resources
    assert (resources.num_cpus, resources.num_gpus) == (14.0, 6.0)


def test_tensor_parallelism_needs_as_many_gpus() -> None:
    [finding] = findings(resources={"rollout": {"tensor_parallel_size": 2, "num_gpus": 1}})
    assert "needs num_gpus 2 for each engine, not 1" in finding["problem"]


def test_nothing_to_do_is_refused() -> None:
    assert "nothing to do" in findings(sft=None)[0]["problem"]


def test_a_completion_that_leaves_no_room_for_a_prompt_is_refused() -> None:
    model = {"path": "/m", "max_model_len": 32}
    assert "no room for a prompt" in findings(model=model, rl=RL)[0]["problem"]


@pytest.mark.parametrize("size", [3, 16])
def test_a_mini_batch_must_divide_the_samples_of_a_step(size: int) -> None:
    assert "choose a divisor" in findings(rl={**RL, "mini_batch_size": size})[0]["problem"]


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        ({"prioritty": "high"}, "prioritty", "did you mean 'priority'?"),
        ({"rl": {**RL, "num_generation": 4}}, "rl.num_generation", "did you mean 'num_generations'?"),
        ({"rl": {**RL, "data": {"pth": "x", "path": "x"}}}, "rl.data.pth", "did you mean 'path'?"),
        ({"resources": {"trainer": {"num_gpu": 1}}}, "resources.trainer.num_gpu", "did you mean 'num_gpus'?"),
    ],
)
def test_an_unknown_key_names_the_nearest(changes: dict[str, Any], field: str, hint: str) -> None:
    [finding] = findings(**changes)
    assert (finding["field"], finding["hint"]) == (field, hint)


def test_a_reference_without_adapters_needs_a_model_with_adapters() -> None:
    rl = {
        "data": {"path": "/rl"},
        "reward": {"type": "exact_match"},
        "optimizer": {"learning_rate": 1e-3},
        "num_steps": 1,
        "num_prompts_per_step": 1,
        "num_generations": 2,
        "max_completion_length": 8,
        "beta": 0.1,
        "kl_reference": "adapters_off",
    }
    with pytest.raises(ValidationError, match=r"needs model\.lora"):
        make_spec(rl=rl)
    assert make_spec(rl=rl, model={"path": "/m", "lora": {}}).rl is not None


def test_an_unknown_key_in_a_union_knows_the_keys_of_its_member() -> None:
    sft = {**spec_body()["sft"], "objective": {"type": "sed", "lamda": 1.0}}
    [finding] = findings(sft=sft)
    assert finding["hint"] == "did you mean 'lambda'?"


def test_a_key_without_neighbours_lists_what_is_known() -> None:
    assert "known keys here: " in findings(zzzzzz=1)[0]["hint"]


@given(st.one_of(st.booleans(), st.text(), st.floats(), st.lists(st.integers()), st.none()))
def test_no_value_is_converted_to_an_integer(value: object) -> None:
    with pytest.raises(ValidationError):
        make_spec(seed=value)


@given(st.floats())
def test_a_learning_rate_is_a_finite_number(rate: float) -> None:
    sft = {**spec_body()["sft"], "optimizer": {"learning_rate": rate}}
    if 0.0 <= rate < float("inf"):
        assert make_spec(sft=sft).sft is not None
    else:
        assert findings(sft=sft)


def test_the_checked_in_schema_is_current() -> None:
    current = DEFAULT_PATH.read_text(encoding="utf-8") == schema_text()
    assert current, "run python -m service.contract.json_schema"


def test_the_schema_says_what_fields_mean() -> None:
    definitions = experiment_schema()["$defs"]
    assert definitions["SedObjective"]["properties"]["mask"]["description"]
    assert definitions["EvaluationSpec"]["properties"]["num_generations"].keys() >= {"default", "title"}
    assert definitions["ModelSpec"]["properties"]["path"]["description"] == (
        "A folder that the service and the workers can read."
    )


def test_the_schema_is_written_where_it_is_wanted(tmp_path: Any) -> None:
    main([str(tmp_path / "new" / "schema.json")])
    assert json.loads((tmp_path / "new" / "schema.json").read_text())["title"] == "ExperimentSpec"


def test_a_problem_names_the_path_that_a_person_wrote() -> None:
    body = spec_body(sft={**spec_body()["sft"], "objective": {"type": "sed", "lamda": 1.0}})

    with pytest.raises(ValidationError) as caught:
        ExperimentSpec.model_validate(body)

    problems = describe_errors(caught.value, ExperimentSpec)
    assert problems == [
        {"field": "sft.objective.lamda", "problem": "unknown key 'lamda'", "hint": "did you mean 'lambda'?"}
    ]


def test_a_problem_of_several_fields_reads_as_a_sentence() -> None:
    with pytest.raises(ValidationError) as caught:
        ExperimentSpec.model_validate({"name": "x", "model": {"path": "/m"}})

    problems = describe_errors(caught.value, ExperimentSpec)
    assert problems == [{"field": "(body)", "problem": "nothing to do: give at least one of sft, rl, evaluation"}]


def gpus(**num_gpus: float) -> dict[str, Any]:
    return {role: {"num_gpus": number} for role, number in num_gpus.items()}


def test_nccl_is_refused_where_a_role_has_no_gpu_of_its_own() -> None:
    rl = {**RL, "weight_sync": {"transport": "nccl"}}
    problem = findings(rl=rl, resources=gpus(trainer=1.0, rollout=0.5))[0]["problem"]
    assert "resources.rollout.num_gpus is below 1" in problem
    assert make_spec(rl=rl, resources=gpus(trainer=1.0, rollout=1.0)).weight_sync.transport == "nccl"


def test_weight_sync_without_reinforcement_learning_has_the_defaults() -> None:
    assert make_spec().weight_sync == make_spec(rl=RL).weight_sync
