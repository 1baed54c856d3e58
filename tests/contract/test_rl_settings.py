from typing import Any

import pytest
from pydantic import ValidationError

from service.contract.rl import REWARD_SCALES, preset_differences
from service.contract.stages import RlSpec

BODY: dict[str, Any] = {
    "data": {"path": "/rl"},
    "reward": {"type": "exact_match"},
    "optimizer": {"learning_rate": 1e-3},
    "num_steps": 5,
    "num_prompts_per_step": 4,
    "num_generations": 8,
    "max_completion_length": 20,
}


def make(**changes: Any) -> RlSpec:
    return RlSpec.model_validate(BODY | changes)


def differences(spec: RlSpec) -> dict[str, object]:
    return {name: found for name, found, _ in preset_differences(spec.model_dump(mode="json"))}


@pytest.mark.parametrize("preset", [None, "grpo", "dapo", "dr_grpo"])
def test_the_resolved_form_reads_as_itself(preset: str | None) -> None:
    spec = make(preset=preset)
    assert RlSpec.model_validate_json(spec.model_dump_json()) == spec
    assert differences(spec) == {}


def test_presets_fill_only_what_is_left_out() -> None:
    spec = make(preset="dapo", epsilon_high=0.4, dynamic_sampling={"mode": "filter", "max_gen_batches": 3})
    assert (spec.epsilon_low, spec.epsilon_high) == (0.2, 0.4)
    assert spec.overlong_buffer is not None
    assert spec.overlong_buffer.len == 4
    assert differences(spec) == {"epsilon_high": 0.4, "dynamic_sampling.max_gen_batches": 3}


def test_the_papers_preset_needs_data_and_reward_alone() -> None:
    spec = RlSpec.model_validate({"preset": "sed_paper", "data": BODY["data"], "reward": BODY["reward"]})
    assert (spec.num_steps, spec.num_samples_per_step, spec.num_sequences_per_update) == (80, 2048, 256)
    assert (spec.epsilon_low, spec.epsilon_high, spec.delta, spec.beta) == (0.2, 0.28, 3.0, 0.0)
    assert (spec.optimizer.learning_rate, spec.optimizer.weight_decay) == (1e-6, 0.01)
    assert differences(spec) == {}


def test_a_part_that_is_written_in_part_gets_the_rest_from_the_preset() -> None:
    spec = make(preset="sed_paper", optimizer={"learning_rate": 1e-5}, num_prompts_per_step=64)
    assert (spec.optimizer.learning_rate, spec.optimizer.weight_decay) == (1e-5, 0.01)
    assert differences(spec)["optimizer.learning_rate"] == 1e-5


def test_in_step_nothing_is_corrected_and_nothing_is_ahead() -> None:
    spec = make()
    assert (spec.mode, spec.max_staleness, spec.num_steps_ahead, spec.rollout_correction.mode) == (
        "sync",
        None,
        0,
        "none",
    )


@pytest.mark.parametrize("preset", [None, "grpo", "dapo"])
@pytest.mark.parametrize("unset", [{}, {"max_staleness": None}])
def test_ahead_of_the_trainer_one_step_and_truncated_weights_are_the_default(
    preset: str | None, unset: dict[str, Any]
) -> None:
    spec = make(preset=preset, mode="async", **unset)
    assert (spec.num_steps_ahead, spec.rollout_correction.mode) == (1, "token_truncate")
    assert RlSpec.model_validate_json(spec.model_dump_json()) == spec
    assert differences(spec) == {}


def test_what_is_said_of_staleness_and_correction_counts() -> None:
    spec = make(mode="async", max_staleness=3, rollout_correction={"max": 2.0})
    assert (spec.num_steps_ahead, spec.rollout_correction.mode, spec.rollout_correction.max) == (
        3,
        "token_truncate",
        2.0,
    )
    assert make(mode="async", rollout_correction={"mode": "none"}).rollout_correction.mode == "none"


@pytest.mark.parametrize("estimator", REWARD_SCALES)
@pytest.mark.parametrize("preset", [None, "grpo", "dr_grpo"])
def test_what_an_estimator_divides_by_follows_from_it(estimator: str, preset: str | None) -> None:
    spec = make(preset=preset, adv_estimator=estimator, adv_k=2 if estimator == "pass_at_k" else None)
    assert spec.scale_rewards in REWARD_SCALES[estimator]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"adv_estimator": "rloo", "scale_rewards": "group"}, "does not go with adv_estimator 'rloo'"),
        ({"adv_estimator": "pass_at_k"}, "cannot do without"),
        ({"adv_k": 2}, "belongs to adv_estimator"),
        ({"adv_estimator": "pass_at_k", "adv_k": 8}, "must lie below num_generations"),
        ({"delta": 1.2}, "must lie above 1 \\+ epsilon_high"),
        ({"delta": 3.0, "policy_loss": "gspo"}, "delta only means something"),
        ({"kl_reference": "adapters_off"}, "kl_reference 'adapters_off' only means something with beta above 0"),
        ({"overlong_buffer": {"len": 21}}, "exceeds max_completion_length"),
        ({"dynamic_sampling": {"mode": "filter"}}, "at least 2"),
        ({"dynamic_sampling": {"mode": "replace", "max_gen_batches": 2}}, "no other mode generates twice"),
        ({"max_staleness": 1}, "only means something with mode 'async'"),
        ({"mode": "async", "max_staleness": 0}, "greater than or equal to 1"),
        ({"rollout_correction": {"mode": "token_mask", "min": 3.0}}, "must lie below max"),
        ({"rollout_correction": {"mode": "token_truncate", "min": 0.5}}, "only means something with a mask"),
        ({"rollout_correction": {"mode": "token_mask", "aggregate": "mean"}}, "a sequence mode"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        make(**changes)


def test_limit_without_a_probe_is_refused() -> None:
    with pytest.raises(ValidationError, match="probe_num_sequences 0 makes none"):
        make(weight_sync={"probe_num_sequences": 0, "probe_max_logprob_diff": 0.1})
