"""Properties of cross entropy and SED: an independent oracle, equality where the penalty is off, split invariance."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.contract.objectives import SedObjective
from workers.objectives.base import ObjectiveOutput, token_statistics
from workers.objectives.build import build_supervised, needs_calibration
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.sed_sft import SelectivePenalty, calibrate_tau
from workers.objectives.step_metrics import token_means

ACCUMULATION = json.loads((Path(__file__).parent / "vectors.json").read_text())["accumulation"]

seeds = st.integers(0, 2**31)
lambdas = st.sampled_from([0.0, 0.2, 1.0, 2.0])
taus = st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0, math.inf])


def random_rows(seed: int, num_rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_NV = 3.0 * torch.randn(num_rows, 7, dtype=dtype, generator=generator)
    return logits_NV.requires_grad_(), torch.randint(0, 7, (num_rows,), generator=generator)


def compute(objective: CrossEntropy | SelectivePenalty, logits_NV: Tensor, labels_N: Tensor) -> ObjectiveOutput:
    return objective(token_statistics(logits_NV, labels_N, top_k=objective.top_k))


def oracle_row(logits: list[float], label: int, lambda_: float, k: int, tau: float) -> tuple[float, list[float]]:
    """Loss and closed-form gradient of one token in scalar float64 arithmetic."""
    largest = max(logits)
    terms = [math.exp(z - largest) for z in logits]
    probs = [term / math.fsum(terms) for term in terms]
    p = probs[label]
    masked = 1.0 if math.fsum(sorted(probs)[-k:]) < tau else 0.0
    weight = 1.0 - lambda_ * masked * p * (2.0 * p - 1.0)
    nll = largest + math.log(math.fsum(terms)) - logits[label]
    gradient = [weight * (prob - (j == label)) for j, prob in enumerate(probs)]
    return nll + lambda_ * masked * (p - 0.5) ** 2, gradient


@settings(max_examples=60, deadline=None)
@given(seed=seeds, lambda_=lambdas, tau=taus, k=st.integers(1, 7))
def test_sed_equals_the_scalar_oracle(seed: int, lambda_: float, tau: float, k: int) -> None:
    logits_NV, labels_N = random_rows(seed, 5)
    loss_sum = compute(SelectivePenalty(lambda_=lambda_, top_k=k, tau=tau), logits_NV, labels_N).loss_sum
    loss_sum.backward()
    rows = [
        oracle_row(row, label, lambda_, k, tau)
        for row, label in zip(logits_NV.tolist(), labels_N.tolist(), strict=True)
    ]
    # A full-vocabulary mass is 1 up to rounding, so tau = 1 has no defined side there.
    if not (k == 7 and tau == 1.0):
        assert loss_sum.item() == pytest.approx(math.fsum(loss for loss, _ in rows), abs=1e-10)
        torch.testing.assert_close(
            logits_NV.grad, torch.tensor([grad for _, grad in rows], dtype=torch.float64), rtol=0, atol=1e-10
        )


@settings(max_examples=30, deadline=None)
@given(seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_sed_without_penalty_is_cross_entropy_bit_for_bit(seed: int, dtype: torch.dtype) -> None:
    results = []
    for objective in (
        CrossEntropy(),
        SelectivePenalty(lambda_=0.0, top_k=2, tau=math.inf),
        SelectivePenalty(lambda_=1.0, top_k=2, tau=0.0),
    ):
        logits_NV, labels_N = random_rows(seed, 9, dtype)
        loss_sum = compute(objective, logits_NV, labels_N).loss_sum
        loss_sum.backward()
        results.append((loss_sum.detach(), logits_NV.grad))
    for loss_sum, gradient in results[1:]:
        assert torch.equal(loss_sum, results[0][0])
        assert torch.equal(gradient, results[0][1])


@settings(max_examples=40, deadline=None)
@given(seed=seeds, cuts=st.lists(st.integers(1, 11), max_size=4), tau=taus)
def test_gradient_does_not_depend_on_the_split(seed: int, cuts: list[int], tau: float) -> None:
    objective = SelectivePenalty(lambda_=1.0, top_k=2, tau=tau)
    whole_NV, labels_N = random_rows(seed, 12)
    (compute(objective, whole_NV, labels_N).loss_sum / 12).backward()
    split_NV, _ = random_rows(seed, 12)
    bounds = [0, *sorted(set(cuts)), 12]
    outputs = [compute(objective, split_NV[start:end], labels_N[start:end]) for start, end in pairwise(bounds)]
    for output in outputs:
        (output.loss_sum / 12).backward(retain_graph=True)
    torch.testing.assert_close(split_NV.grad, whole_NV.grad, rtol=0, atol=1e-14)
    whole = token_means([compute(objective, whole_NV, labels_N)], 12)
    assert token_means(outputs, 12) == pytest.approx(whole, abs=1e-12)


def test_two_micro_batches_share_the_denominator_of_the_step() -> None:
    params = ACCUMULATION["params"]
    objective = SelectivePenalty(lambda_=params["lam"], top_k=params["k"], tau=params["tau"])
    losses, gradients = [], []
    for part in (ACCUMULATION["micro_a"], ACCUMULATION["micro_b"]):
        labels = torch.tensor(part["labels"])
        logits = torch.tensor(part["logits"], dtype=torch.float64, requires_grad=True)
        output = compute(objective, logits[labels >= 0], labels[labels >= 0])
        loss = output.loss_sum / ACCUMULATION["num_items_in_batch"]
        loss.backward()
        losses.append(loss.item())
        gradients += logits.grad.tolist()
    assert losses == pytest.approx([ACCUMULATION["loss_a"], ACCUMULATION["loss_b"]], abs=1e-10)
    torch.testing.assert_close(torch.tensor(gradients), torch.tensor(ACCUMULATION["grad_of_step"]), rtol=0, atol=1e-10)


def test_no_gradient_flows_through_mask_or_topk() -> None:
    logits_NV, labels_N = random_rows(0, 4)
    statistics = token_statistics(logits_NV, labels_N, top_k=2)
    assert statistics.topk_mass_N is not None
    assert not statistics.topk_mass_N.requires_grad
    assert not statistics.entropy_N.requires_grad


def test_extreme_logits_stay_finite() -> None:
    logits_NV = torch.tensor([[1024.0, -1024.0, 0.0], [1024.0, -math.inf, 0.0]], requires_grad=True)
    output = compute(SelectivePenalty(lambda_=1.0, top_k=2, tau=math.inf), logits_NV, torch.tensor([1, 0]))
    output.loss_sum.backward()
    assert math.isfinite(output.loss_sum.item())
    assert all(math.isfinite(value.item()) for value in output.metric_sums.values())
    assert logits_NV.grad is not None and bool(logits_NV.grad.isfinite().all())


def test_temperature_divides_the_logits() -> None:
    logits_NV, labels_N = random_rows(1, 6)
    cold = token_statistics(logits_NV, labels_N, temperature=0.7)
    assert torch.equal(cold.nll_N, token_statistics(logits_NV / 0.7, labels_N).nll_N)


def test_tau_is_the_quantile_that_torch_computes() -> None:
    masses_N = torch.rand(1001, generator=torch.Generator().manual_seed(3))
    calibration = calibrate_tau([masses_N[:400], masses_N[400:]], mask_ratio=0.7)
    assert calibration.tau == pytest.approx(torch.quantile(masses_N, 0.3).item(), abs=1e-6)
    assert calibration.num_tokens == sum(calibration.histogram_counts) == 1001
    assert len(calibration.histogram_counts) == 50


@pytest.mark.parametrize(("mask_ratio", "penalised"), [(0.0, 3), (0.5, 2), (1.0, 0)])
def test_mask_ratio_edges_keep_the_strict_comparison(mask_ratio: float, penalised: int) -> None:
    masses_N = torch.tensor([0.25, 0.5, 0.75, 1.0])
    assert int((masses_N < calibrate_tau([masses_N], mask_ratio).tau).sum()) == penalised


def test_calibration_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        calibrate_tau([], mask_ratio=0.7)


def test_mask_none_penalises_every_token() -> None:
    objective = build_supervised(SedObjective(mask="none"), None)
    logits_NV, labels_N = random_rows(2, 8)
    assert compute(objective, logits_NV, labels_N).metric_sums["sft/sed/penalised_fraction"].item() == 8


def test_only_a_mask_without_tau_needs_calibration() -> None:
    assert needs_calibration(SedObjective())
    assert not needs_calibration(SedObjective(tau=0.9))
    assert not needs_calibration(SedObjective(mask="none"))
