"""The loss of reinforcement learning against its oracle, in float64, whatever the chunks and micro-batches."""

from typing import Any

import pytest
import torch

from service.contract.rl import RolloutCorrection
from tests.workers.objectives.oracle import gradients
from tests.workers.objectives.rl_oracle import SEQUENCES, Case, fused, make_case, oracle_loss
from workers.objectives.policy_objective import divisor, kl_estimate, token_weights

CASES: dict[str, dict[str, Any]] = {
    "ppo_clip": {},
    "dual clip": {"delta": 1.5},
    "gspo": {"policy_loss": "gspo", "loss_agg_mode": "seq-mean-token-mean"},
    "gspo tokens": {"policy_loss": "gspo"},
    "cispo": {"policy_loss": "cispo", "epsilon_low": 1.0},
    "reinforce": {"policy_loss": "reinforce"},
    "sums": {"loss_agg_mode": "seq-mean-token-sum"},
    "means": {"loss_agg_mode": "seq-mean-token-mean"},
    "normed sums": {"loss_agg_mode": "seq-mean-token-sum-norm"},
    "masked": {"masked": (1, 2)},
    "masked means": {"masked": (1, 2), "loss_agg_mode": "seq-mean-token-mean", "beta": 0.2, "entropy_coef": 0.1},
    "masked sums": {"masked": (0, 5), "loss_agg_mode": "seq-mean-token-sum-norm"},
    "k1": {"beta": 0.3, "kl_estimator": "k1"},
    "k2": {"beta": 0.3, "kl_estimator": "k2"},
    "k3": {"beta": 0.3, "kl_estimator": "k3"},
    "entropy": {"entropy_coef": 0.2},
    "entropy under a soft cap": {"entropy_coef": 0.2, "softcap": 2.0},
    "all terms": {"policy_loss": "gspo", "beta": 0.1, "entropy_coef": 0.05},
    "token_truncate": {"rollout_correction": RolloutCorrection(mode="token_truncate", max=1.2)},
    "token_mask": {"rollout_correction": RolloutCorrection(mode="token_mask", max=1.5, min=0.7)},
    "sequence_truncate": {"rollout_correction": RolloutCorrection(mode="sequence_truncate", max=1.1)},
    "sequence_mask": {"rollout_correction": RolloutCorrection(mode="sequence_mask", max=1.5, aggregate="mean")},
    "gspo, corrected": {"policy_loss": "gspo", "rollout_correction": RolloutCorrection(mode="sequence_mask", max=2.0)},
}
MICROBATCHES = {"one": [list(SEQUENCES)], "three": [[4, 0], [2], [5, 1, 3]]}


def loss_of(case: Case, microbatches: list[list[int]], chunk_tokens: int | None) -> torch.Tensor:
    parts = [fused(case, indices, chunk_tokens).loss_sum for indices in microbatches]
    return torch.stack(parts).sum() / case.data.divisor_of(SEQUENCES, case.spec)


@pytest.mark.parametrize("chunk_tokens", [None, 2])
@pytest.mark.parametrize("microbatches", MICROBATCHES.values(), ids=MICROBATCHES)
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_loss_and_gradients_are_the_oracles(
    changes: dict[str, Any], microbatches: list[list[int]], chunk_tokens: int | None
) -> None:
    case = make_case(**changes)
    expected = oracle_loss(case)
    found = loss_of(case, microbatches, chunk_tokens)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    for ours, theirs in zip(gradients(found, case.layer), gradients(expected, case.layer), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_metrics_are_sums_over_tokens() -> None:
    case = make_case(beta=0.1)
    whole, parts = fused(case).metric_sums, [fused(case, indices).metric_sums for indices in MICROBATCHES["three"]]
    assert set(whole) >= {"actor/pg_loss", "actor/kl_loss", "actor/clip_ratio/low", "actor/ppo_kl", "actor/entropy"}
    for name, value in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-10)


def test_endless_ratios_without_advantage_give_no_nan() -> None:
    case = make_case(spread=1e3)
    case.data.advantages_N.zero_()
    output = fused(case)
    assert output.loss_sum.item() == 0.0
    assert all(not gradient.any() for gradient in gradients(output.loss_sum, case.layer))


def test_estimates_of_the_divergence_average_to_it() -> None:
    logits_2V = torch.tensor([[0.5, -1.0, 0.2], [0.0, 0.3, -0.4]], dtype=torch.float64)
    logp_V, reference_V = torch.log_softmax(logits_2V, -1)
    kl = (logp_V.exp() * (logp_V - reference_V)).sum()
    for estimator in ("k1", "k3"):
        assert (logp_V.exp() * kl_estimate(logp_V, reference_V, estimator)).sum() == pytest.approx(kl)


def test_a_policy_that_has_not_moved_has_a_divergence_of_exactly_0() -> None:
    logprobs_N = torch.tensor([-1.3, -0.2])
    assert all(not kl_estimate(logprobs_N, logprobs_N, estimator).any() for estimator in ("k1", "k2", "k3"))


def test_nothing_trained_divides_by_one() -> None:
    assert divisor([3, 2], [False, False], "token-mean", 5) == 1
    assert token_weights([3, 2], [False, False], "seq-mean-token-mean") == [0.0, 0.0]
