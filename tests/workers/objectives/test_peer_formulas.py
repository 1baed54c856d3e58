"""Losses, gradients and advantages against what TRL's and verl's own code gave on the same tokens.

`bench/rl_formulas.py` records the file; docs/rl.md says where the others' formulas differ.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.tiny_model import make_rl_spec
from workers.advantages import AdvantageRule
from workers.objectives.base import TokenStatistics
from workers.objectives.build import build_policy_objective
from workers.objectives.policy_gradient import over_sequences
from workers.objectives.policy_objective import PolicyTokens, divisor, token_weights

PEERS = json.loads((Path(__file__).parent / "peer_formulas.json").read_text())
LENGTHS: list[int] = PEERS["tokens"]["lengths"]


def named(cases: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[f"{case['peer']}, {case['name']}" for case in cases])


def tokens_of(name: str) -> Tensor:
    return torch.tensor(PEERS["tokens"][name], dtype=torch.float64)


def by_token(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(torch.tensor(LENGTHS))


@named(PEERS["losses"])
def test_loss_and_gradient_are_the_peers(case: dict[str, Any]) -> None:
    settings = dict(case["settings"])
    corrected = settings.pop("corrected", False)
    spec = make_rl_spec(**(PEERS["epsilons"] | settings))
    objective = build_policy_objective(spec)
    logp_N, old_N = tokens_of("logp").requires_grad_(), tokens_of("old")
    is_trained = [True] * len(LENGTHS)
    # Weights of lists are exact in float64; in the trainer they are float32.
    known = PolicyTokens(
        old_logprobs_N=old_N,
        advantages_N=by_token(PEERS["tokens"]["advantages"]),
        weights_N=by_token(token_weights(LENGTHS, is_trained, spec.loss_agg_mode)),
        correction_N=tokens_of("correction") if corrected else None,
        sequence_log_ratio_N=over_sequences(logp_N - old_N, LENGTHS, "mean") if objective.by_sequence else None,
        reference_logprobs_N=tokens_of("reference"),
    )
    statistics = TokenStatistics(
        nll_N=-logp_N,
        entropy_N=torch.zeros_like(old_N),
        is_likeliest_N=torch.zeros(len(old_N), dtype=torch.bool),
        top_probs_NK=None,
        collision_N=None,
    )
    output = objective(statistics, known)
    loss = output.loss_sum / divisor(LENGTHS, is_trained, spec.loss_agg_mode, spec.max_completion_length)
    (gradient_N,) = torch.autograd.grad(loss, logp_N)
    # verl adds 1e-8 to the length of a sequence before it divides by it.
    rel = 1e-7 if case["peer"] == "verl" and spec.loss_agg_mode == "seq-mean-token-mean" else 1e-12
    assert loss.item() == pytest.approx(case["loss"], rel=rel)
    assert gradient_N.tolist() == pytest.approx(case["gradient"], rel=rel, abs=1e-15)
    assert sum(output.metric_sums[f"actor/clip_ratio/{bound}"] for bound in ("low", "high")) > 0, "bounds act"


@named(PEERS["advantages"])
def test_advantages_are_the_peers(case: dict[str, Any]) -> None:
    spec = make_rl_spec(**case["settings"])
    rule = AdvantageRule(estimator=spec.adv_estimator, scale=spec.scale_rewards, k=spec.adv_k)
    found = rule.advantages(PEERS["rewards"], PEERS["reward_lengths"])
    # Both add an epsilon of their own to a deviation.
    for ours, theirs in zip(found, case["advantages"], strict=True):
        assert list(ours) == pytest.approx(theirs, rel=5e-6, abs=5e-6)
