"""The fused sweep itself: its statistics, what it gives gradients to, and precision."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.workers.objectives.oracle import fused, logits_of, random_layer
from workers.objectives.base import ObjectiveOutput, StatisticsNeeds, TokenStatistics, token_statistics
from workers.objectives.build import row_loss
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.fused_linear import fused_loss, fused_statistics
from workers.objectives.output_head import OutputHead, ReferenceRows


@pytest.mark.parametrize("top_k", [1, 2, 3, 7])
def test_statistics_are_those_of_the_logits(top_k: int) -> None:
    layer = random_layer(2, 12)
    needs = StatisticsNeeds(top_k=top_k, collision=True)
    ours = fused_statistics(layer.hidden_NH, layer.head, layer.labels_N, needs=needs, temperature=0.6, chunk_tokens=5)
    logits_NV = logits_of(layer.hidden_NH, layer.head)
    theirs = token_statistics(logits_NV, layer.labels_N, temperature=0.6, top_k=top_k, collision=True)
    for name in ("nll_N", "entropy_N", "is_likeliest_N", "topk_mass_N", "collision_N"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12)
    assert not ours.nll_N.requires_grad


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_of_equal_logits_the_lowest_id_is_the_likeliest_and_all_count_for_the_mass(top_k: int) -> None:
    logits_NV = torch.tensor([[1.0, 1.0, 0.0, 1.0]]).expand(4, 4)
    head = OutputHead(weight_VH=torch.eye(4))
    made = fused_statistics(logits_NV, head, torch.arange(4), needs=StatisticsNeeds(top_k=top_k))
    assert made.is_likeliest_N.tolist() == [True, False, False, False]
    assert made.topk_mass_N is not None
    assert made.topk_mass_N.tolist() == pytest.approx([top_k * math.e / (3 * math.e + 1)] * 4)


def test_the_divergence_from_a_reference_is_that_of_the_logits() -> None:
    layer = random_layer(2, 12)
    made = fused_statistics(
        layer.hidden_NH,
        layer.head,
        layer.labels_N,
        needs=StatisticsNeeds(reference=True),
        reference=layer.reference,
        temperature=0.6,
        chunk_tokens=5,
    )
    logp_NV, logr_NV = (
        torch.log_softmax(logits_of(part.hidden_NH, part.head) / 0.6, -1) for part in (layer, layer.reference)
    )
    torch.testing.assert_close(made.reference_kl_N, (logp_NV.exp() * (logp_NV - logr_NV)).sum(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_has_no_divergence_from_itself_and_a_small_one_is_right(dtype: torch.dtype) -> None:
    layer = random_layer(2, 50, dtype, vocabulary=300, biased=False)
    needs = StatisticsNeeds(reference=True)

    def divergence(weight_VH: torch.Tensor) -> torch.Tensor:
        reference = ReferenceRows(hidden_NH=layer.hidden_NH, head=replace(layer.head, weight_VH=weight_VH))
        made = fused_statistics(layer.hidden_NH, layer.head, layer.labels_N, needs=needs, reference=reference)
        assert made.reference_kl_N is not None
        return made.reference_kl_N

    weight_VH = layer.head.weight_VH.detach()
    assert not divergence(weight_VH).any()
    moved_VH = weight_VH + 1e-3 * torch.randn(weight_VH.shape, generator=torch.Generator().manual_seed(0))
    logp_NV, logr_NV = (
        torch.log_softmax(layer.hidden_NH.detach().double() @ matrix.double().T, -1) for matrix in (weight_VH, moved_VH)
    )
    expected_N = (logp_NV.exp() * (logp_NV - logr_NV)).sum(-1)
    assert float(expected_N.mean()) < 1e-5
    torch.testing.assert_close(divergence(moved_VH).double(), expected_N, rtol=0, atol=5e-7)


def test_tied_embeddings_gather_both_gradients() -> None:
    layer = random_layer(6, 8, biased=False)
    weight_VH, inputs_N = layer.head.weight_VH, torch.arange(8) % 7
    tied = replace(layer, hidden_NH=weight_VH[inputs_N])
    (ours,) = torch.autograd.grad(fused(CrossEntropy(), tied).loss_sum, weight_VH)
    expected = cross_entropy(weight_VH[inputs_N] @ weight_VH.T, layer.labels_N, reduction="sum")
    torch.testing.assert_close(ours, torch.autograd.grad(expected, weight_VH)[0], rtol=0, atol=1e-12)


def test_bfloat16_products_keep_float32_statistics_and_gradients() -> None:
    layer = random_layer(7, 16, torch.float32, biased=False)
    hidden_NH, weight_VH = layer.hidden_NH, layer.head.weight_VH
    output = fused(CrossEntropy(), replace(layer, head=replace(layer.head, dtype=torch.bfloat16)))
    output.loss_sum.backward()
    assert output.loss_sum.dtype == torch.float32
    assert weight_VH.grad is not None and weight_VH.grad.dtype == torch.float32
    logits_NV = (hidden_NH.bfloat16() @ weight_VH.bfloat16().T).float()
    expected = cross_entropy(logits_NV, layer.labels_N, reduction="sum")
    assert output.loss_sum.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_frozen_head_gets_no_gradient() -> None:
    layer = random_layer(7, 6, biased=False)
    frozen = replace(layer, head=replace(layer.head, weight_VH=layer.head.weight_VH.detach()))
    fused(CrossEntropy(), frozen).loss_sum.backward()
    expected = torch.autograd.grad(fused(CrossEntropy(), layer).loss_sum, layer.hidden_NH)[0]
    assert torch.equal(layer.hidden_NH.grad, expected)
    assert frozen.head.weight_VH.grad is None


def test_a_loss_of_single_tokens_sees_their_place_in_the_batch() -> None:
    layer = random_layer(9, 10, biased=False)
    hidden_NH, weight_VH = layer.hidden_NH, layer.head.weight_VH
    factors_N = torch.linspace(-1.0, 1.0, 10, dtype=torch.float64)

    def scaled(statistics: TokenStatistics, rows: slice) -> ObjectiveOutput:
        return ObjectiveOutput(loss_sum=(factors_N[rows] * statistics.nll_N).sum(), metric_sums={})

    output = fused_loss(hidden_NH, layer.head, layer.labels_N, scaled, needs=StatisticsNeeds(), chunk_tokens=3)
    nll_N = cross_entropy(hidden_NH @ weight_VH.T, layer.labels_N, reduction="none")
    (ours,) = torch.autograd.grad(output.loss_sum, weight_VH)
    (expected,) = torch.autograd.grad((factors_N * nll_N).sum(), weight_VH)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_the_gradients_are_handed_out_once() -> None:
    loss = fused(CrossEntropy(), random_layer(1, 4)).loss_sum
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already handed out"):
        loss.backward()


def test_without_gradients_nothing_is_attached() -> None:
    with torch.no_grad():
        output = fused(CrossEntropy(), random_layer(1, 4))
    assert not output.loss_sum.requires_grad


def test_every_row_counts_also_where_the_vocabulary_is_padded() -> None:
    """The rollout engine samples from all rows: what training leaves out, sampling would not."""
    layer = random_layer(4, 8)
    below = replace(layer, labels_N=layer.labels_N.clamp_max(4))
    (gradient_V,) = torch.autograd.grad(fused(CrossEntropy(), below).loss_sum, below.head.bias_V)
    assert bool((gradient_V[5:] > 0).all())


def test_a_sweep_that_needs_a_reference_is_not_run_without_one() -> None:
    layer = random_layer(1, 4)
    objective = row_loss(CrossEntropy())
    with pytest.raises(AssertionError, match="needs a reference model"):
        fused_loss(layer.hidden_NH, layer.head, layer.labels_N, objective, needs=StatisticsNeeds(reference=True))


def test_gradient_of_a_bfloat16_head_is_rounded_once_whatever_the_number_of_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(512, 8, generator=generator, dtype=torch.bfloat16)
    labels_N = torch.randint(0, 16, (512,), generator=generator)
    weight_VH = torch.randn(16, 8, generator=generator, dtype=torch.bfloat16).requires_grad_()
    gradients = []
    for chunk_tokens in (512, 1):
        weight_VH.grad = None
        output = fused_loss(
            hidden_NH,
            OutputHead(weight_VH=weight_VH),
            labels_N,
            row_loss(CrossEntropy()),
            needs=StatisticsNeeds(),
            chunk_tokens=chunk_tokens,
        )
        output.loss_sum.backward()
        assert weight_VH.grad is not None and weight_VH.grad.dtype == torch.bfloat16
        gradients.append(weight_VH.grad.float())
    # 2^-8 is half a step of bfloat16 and a little; adding up in it would be off by up to 20 times as much.
    torch.testing.assert_close(*gradients, rtol=2**-7, atol=2**-4)
