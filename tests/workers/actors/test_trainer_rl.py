import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Lfm2Config

from service.contract.metric_names import describe_metric
from service.contract.rl import RolloutCorrection
from service.contract.spec import LoraSpec
from service.contract.stages import OptimizerSpec
from tests.workers.architectures import SIZES, make_folder_of
from tests.workers.tiny_model import (
    assert_same_weights,
    make_rl_spec,
    make_samples,
    make_sft_spec,
    make_trainer,
    weights_of,
)
from workers.actors.trainer import Trainer
from workers.rollouts import TrainingSample


def run(trainer: Trainer, first: int, last: int) -> list[dict[str, float]]:
    return [trainer.rl_step(step, make_samples(step), temperature=0.8) for step in range(first, last + 1)]


SEVERAL = {"mini_batch_size": 6, "num_iterations": 2}
CORRECTED = {"rollout_correction": RolloutCorrection(mode="sequence_mask", aggregate="mean", max=1.5)}


@pytest.mark.parametrize("changes", [{}, SEVERAL, {"beta": 0.1, **SEVERAL}])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = make_trainer(model_folder)
    whole.prepare_rl(make_rl_spec(**changes), str(tmp_path / "whole"))
    expected = run(whole, 1, 4)

    killed = make_trainer(model_folder)
    killed.prepare_rl(make_rl_spec(**changes), str(tmp_path / "killed"))
    run(killed, 1, 2)
    killed.save_rl(2, policy_version=2)
    run(killed, 3, 3)
    resumed = make_trainer(model_folder)
    plan = resumed.prepare_rl(make_rl_spec(**changes), str(tmp_path / "killed"))

    assert (plan.first_step, plan.policy_version) == (3, 2)
    assert run(resumed, 3, 4) == expected[2:]
    assert_same_weights(weights_of(resumed), weights_of(whole))


def test_a_seed_of_rl_orders_mini_batches_in_the_place_of_the_experiments(model_folder: Path, tmp_path: Path) -> None:
    ends = []
    for number, (of_experiment, of_rl) in enumerate([(7, None), (0, 7), (7, 0)]):
        trainer = make_trainer(model_folder, seed=of_experiment)
        trainer.prepare_rl(make_rl_spec(seed=of_rl, **SEVERAL), str(tmp_path / str(number)))
        ends.append(run(trainer, 1, 3))
    assert ends[0] == ends[1] != ends[2]


def test_learning_rate_0_leaves_the_weights_bit_identical(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    before = weights_of(trainer)
    optimizer = OptimizerSpec(learning_rate=0.0, weight_decay=0.1)
    trainer.prepare_rl(make_rl_spec(optimizer=optimizer), str(tmp_path / "rl"))
    run(trainer, 1, 2)
    assert_same_weights(weights_of(trainer), before)


def test_no_advantage_at_all_gives_finite_metrics_and_no_gradient(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    before = weights_of(trainer)
    trainer.prepare_rl(make_rl_spec(), str(tmp_path / "rl"))
    metrics = trainer.rl_step(1, make_samples(1, advantage=0.0), temperature=1.0)
    assert metrics["actor/grad_norm"] == 0.0
    assert all(math.isfinite(value) for value in metrics.values())
    assert_same_weights(weights_of(trainer), before)


@pytest.mark.parametrize("max_tokens", [1, 17])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mini_batch_size": 6},
        {"mini_batch_size": 6, "policy_loss": "gspo", "loss_agg_mode": "seq-mean-token-mean"},
        {"loss_agg_mode": "seq-mean-token-sum-norm", "beta": 0.1, "entropy_coef": 0.05, **CORRECTED},
    ],
    ids=["one update", "mini-batches", "gspo", "all terms"],
)
def test_micro_batch_budget_changes_no_metric_and_no_weight(
    model_folder: Path, tmp_path: Path, max_tokens: int, changes: dict[str, Any]
) -> None:
    results = []
    for budget in (16384, max_tokens):
        optimizer = OptimizerSpec(learning_rate=1e-2, adam_epsilon=1.0)
        spec = make_rl_spec(max_tokens_per_microbatch=budget, optimizer=optimizer, num_iterations=2, **changes)
        trainer = make_trainer(model_folder)
        trainer.prepare_rl(spec, str(tmp_path / str(budget)))
        results.append((run(trainer, 1, 3), weights_of(trainer)))
    for one, other in zip(results[0][0], results[1][0], strict=True):
        assert other == pytest.approx(one, abs=1e-6, rel=1e-5)
    for name, weight in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], weight, rtol=0, atol=1e-6)


def test_a_model_that_cannot_pack_is_trained_on_padded_rows(tmp_path: Path) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    folder = make_folder_of(Lfm2Config(**sizes, layer_types=["conv", "full_attention"]), tmp_path / "model")
    results = []
    for budget in (1, 1000):
        trainer = make_trainer(folder)
        spec = make_rl_spec(max_tokens_per_microbatch=budget, optimizer=OptimizerSpec(learning_rate=1e-3))
        trainer.prepare_rl(spec, str(tmp_path / str(budget)))
        results.append(run(trainer, 1, 2))
    for one, other in zip(*results, strict=True):
        assert other == pytest.approx(one, abs=1e-5, rel=1e-4)


@pytest.mark.parametrize("policy_loss", ["ppo_clip", "gspo", "cispo"])
def test_first_update_is_exactly_on_policy(model_folder: Path, tmp_path: Path, policy_loss: str) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_rl(make_rl_spec(policy_loss=policy_loss), str(tmp_path / "rl"))
    metrics = trainer.rl_step(1, make_samples(1), temperature=1.0)
    assert metrics["actor/ppo_kl"] == 0.0
    assert metrics["actor/clip_ratio/low"] == metrics["actor/clip_ratio/high"] == 0.0


def test_further_updates_move_away_from_the_old_policy(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    spec = make_rl_spec(num_iterations=4, optimizer=OptimizerSpec(learning_rate=0.1))
    trainer.prepare_rl(spec, str(tmp_path / "rl"))
    metrics = trainer.rl_step(1, make_samples(1), temperature=1.0)
    assert metrics["actor/ppo_kl"] != 0.0
    assert metrics["actor/clip_ratio/low"] + metrics["actor/clip_ratio/high"] > 0.0


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_sampling_gap_compares_with_the_trainer_before_its_update(
    model_folder: Path, tmp_path: Path, num_iterations: int
) -> None:
    trainer = make_trainer(model_folder)
    sequences = [(list(s.prompt_token_ids), list(s.completion_token_ids)) for s in make_samples(1)]
    logprobs = trainer.logprobs(sequences, temperature=0.8)
    samples = [
        TrainingSample(
            prompt_token_ids=sample.prompt_token_ids,
            completion_token_ids=sample.completion_token_ids,
            rollout_logprobs=tuple(own),
            advantage=sample.advantage,
        )
        for sample, own in zip(make_samples(1), logprobs, strict=True)
    ]
    trainer.prepare_rl(make_rl_spec(num_iterations=num_iterations), str(tmp_path / "rl"))
    metrics = trainer.rl_step(1, samples, temperature=0.8)
    assert metrics["sampling/logp_difference/max"] < 1e-6
    assert metrics["sampling/is_ratio_raw/mean"] == pytest.approx(1.0, abs=1e-6)


def test_a_rewarded_token_becomes_likelier(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_rl(make_rl_spec(num_steps=20), str(tmp_path / "rl"))
    prompt, wanted, unwanted = (3, 4), (7, 1), (8, 1)
    before = trainer.logprobs([([3, 4], [7])], temperature=1.0)[0][0]
    for step in range(1, 11):
        samples = [
            TrainingSample(
                prompt_token_ids=prompt,
                completion_token_ids=wanted if index % 2 else unwanted,
                rollout_logprobs=(-3.0, -3.0),
                advantage=1.0 if index % 2 else -1.0,
            )
            for index in range(12)
        ]
        trainer.rl_step(step, samples, temperature=1.0)
    assert trainer.logprobs([([3, 4], [7])], temperature=1.0)[0][0] > before + 0.1


@pytest.mark.parametrize("changes", [{}, {"beta": 0.1, "entropy_coef": 0.1, **CORRECTED}])
def test_every_metric_is_in_the_contract(model_folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_rl(make_rl_spec(**changes), str(tmp_path / "rl"))
    metrics = trainer.rl_step(1, make_samples(1), temperature=1.0)
    assert [name for name in metrics if describe_metric(name) is None] == []


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)], ids=["weights", "adapters"])
def test_the_reference_is_the_policy_with_which_the_stage_began(
    model_folder: Path, tmp_path: Path, lora: LoraSpec | None
) -> None:
    trainer = make_trainer(model_folder, lora=lora)
    spec = make_rl_spec(beta=0.1, optimizer=OptimizerSpec(learning_rate=1e-2))
    trainer.prepare_rl(spec, str(tmp_path / "rl"))
    kls = [metrics["actor/kl_loss"] for metrics in run(trainer, 1, 3)]
    assert kls[0] == 0.0
    assert kls[1] > 0.0

    # A stage that begins later has another reference.
    trainer.prepare_rl(spec, str(tmp_path / "later"))
    assert run(trainer, 1, 1)[0]["actor/kl_loss"] == 0.0


def test_with_adapters_off_the_reference_is_the_base_model_in_a_resumed_run_too(
    model_folder: Path, ten_pairs: str, tmp_path: Path
) -> None:
    spec = make_rl_spec(beta=0.1, kl_reference="adapters_off")
    trainer = make_trainer(model_folder, lora=LoraSpec(rank=2))
    trainer.prepare_sft(make_sft_spec(ten_pairs), str(tmp_path / "sft"))
    trainer.sft_steps(max_steps=100, max_seconds=100.0)
    trainer.end_sft()
    sequences = [(list(s.prompt_token_ids), list(s.completion_token_ids)) for s in make_samples(1)]
    begun, base = (one.logprobs(sequences, temperature=0.8) for one in (trainer, make_trainer(model_folder)))
    gaps = [r - p for own, other in zip(begun, base, strict=True) for p, r in zip(own, other, strict=True)]
    trainer.prepare_rl(spec, str(tmp_path / "rl"))
    expected = run(trainer, 1, 1)
    assert expected[0]["actor/kl_loss"] == pytest.approx(sum(math.expm1(d) - d for d in gaps) / len(gaps), rel=1e-4)
    saved = trainer.save_rl(1, policy_version=1)
    assert "reference." not in Path(saved, "tensors.json").read_text()
    expected += run(trainer, 2, 2)

    resumed = make_trainer(model_folder, lora=LoraSpec(rank=2))
    resumed.prepare_rl(spec, str(tmp_path / "rl"))
    assert run(resumed, 2, 2) == expected[1:]


def test_a_strong_pull_towards_the_reference_keeps_the_policy_near_it(model_folder: Path, tmp_path: Path) -> None:
    last = []
    for beta in (1e-6, 10.0):
        trainer = make_trainer(model_folder)
        trainer.prepare_rl(make_rl_spec(beta=beta, num_steps=8), str(tmp_path / str(beta)))
        last.append(run(trainer, 1, 8)[-1]["actor/kl_loss"])
    assert last[1] < last[0] / 2


def test_an_entropy_bonus_keeps_the_entropy_up(model_folder: Path, tmp_path: Path) -> None:
    last = []
    for coef in (0.0, 1.0):
        trainer = make_trainer(model_folder)
        trainer.prepare_rl(make_rl_spec(entropy_coef=coef, num_steps=8), str(tmp_path / str(coef)))
        last.append(run(trainer, 1, 8)[-1]["actor/entropy"])
    assert last[1] > last[0]


def test_completions_that_are_not_trained_leave_no_trace_in_the_weights(model_folder: Path, tmp_path: Path) -> None:
    weights = []
    for advantage in (1.0, -5.0):
        samples = [
            replace(sample, is_trained=index != 4, advantage=advantage if index == 4 else sample.advantage)
            for index, sample in enumerate(make_samples(1))
        ]
        trainer = make_trainer(model_folder)
        trainer.prepare_rl(make_rl_spec(), str(tmp_path / str(advantage)))
        trainer.rl_step(1, samples, temperature=1.0)
        weights.append(weights_of(trainer))
    assert_same_weights(*weights)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_a_correction_reports_what_it_did(model_folder: Path, tmp_path: Path, mode: Any) -> None:
    trainer = make_trainer(model_folder)
    correction = RolloutCorrection(mode=mode, max=0.9)
    trainer.prepare_rl(make_rl_spec(rollout_correction=correction), str(tmp_path / "rl"))
    metrics = trainer.rl_step(1, make_samples(1), temperature=1.0)
    assert metrics["sampling/is_ratio/max"] <= 0.9 < metrics["sampling/is_ratio_raw/max"]
    assert (metrics["sampling/masked_fraction"] > 0.0) == mode.endswith("_mask")
    assert 0.0 < metrics["sampling/ess"] <= 1.0


def test_misfits_are_refused(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_rl(make_rl_spec(), str(tmp_path / "rl"))
    with pytest.raises(ValueError, match="cannot follow"):
        trainer.rl_step(2, make_samples(1), temperature=1.0)
    with pytest.raises(ValueError, match="11 samples"):
        trainer.rl_step(1, make_samples(1)[:-1], temperature=1.0)
    with pytest.raises(ValueError, match="cannot be saved"):
        trainer.save_rl(1, policy_version=1)


def test_only_the_newest_checkpoints_are_kept(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    trainer.prepare_rl(make_rl_spec(save_total_limit=2), str(tmp_path / "rl"))
    for step in range(1, 5):
        run(trainer, step, step)
        trainer.save_rl(step, policy_version=step)
    assert sorted(path.name for path in (tmp_path / "rl").iterdir()) == ["step-00000003", "step-00000004"]
