"""ASFT, GIFT and EKSFT: where they meet other objectives, and how EKSFT chooses its tokens."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.contract.objectives import AsftObjective, EksftObjective, GiftObjective, needs_reference_model
from tests.workers.objectives.oracle import Layer, fused, given_logits, gradients, logits_of, random_layer
from workers.objectives.anchored import Anchored, Tilted
from workers.objectives.base import ObjectiveOutput
from workers.objectives.build import build_supervised
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.eksft import EntropyKlSelection
from workers.objectives.fused_linear import fused_statistics
from workers.objectives.power_family import DynamicFineTuning
from workers.objectives.step_metrics import token_means

fractions = st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0])


def selection(**changes: Any) -> EntropyKlSelection:
    """EKSFT with its usual settings."""
    usual = {"entropy_fraction": 0.2, "kl_fraction": 0.2, "entropy_coef": 0.05, "kl_coef": 0.05}
    return EntropyKlSelection(**(usual | changes))


def observe(objective: EntropyKlSelection, layer: Layer, **options: Any) -> Tensor:
    """What the first pass of a step sees."""
    return objective.observed(
        fused_statistics(
            layer.hidden_NH,
            layer.head,
            layer.labels_N,
            needs=objective.needs,
            reference=layer.reference,
            **options,
        )
    )


def observed_pairs(entropies: list[float], kls: list[float]) -> Tensor:
    return torch.tensor([entropies, kls], dtype=torch.float32).T


def test_asft_without_its_anchor_is_dft_and_loads_no_reference() -> None:
    assert build_supervised(AsftObjective(kl_coef=0.0), None) == DynamicFineTuning()
    assert not needs_reference_model(AsftObjective(kl_coef=0.0))
    assert build_supervised(AsftObjective(), None) == Anchored(kl_coef=0.1)
    assert all(needs_reference_model(spec) for spec in (AsftObjective(), GiftObjective(), EksftObjective()))


def test_asft_at_the_reference_has_the_loss_and_gradient_of_dft() -> None:
    layer = random_layer(1, 9)
    same = given_logits(logits_of(layer.hidden_NH, layer.head), layer.labels_N)
    results = []
    for objective in (Anchored(kl_coef=5.0), DynamicFineTuning()):
        loss = fused(objective, same).loss_sum
        results.append((loss.detach(), *torch.autograd.grad(loss, same.hidden_NH)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_gift_without_a_label_distils_the_reference() -> None:
    layer = random_layer(1, 9)
    (gradient_NV,) = torch.autograd.grad(fused(Tilted(beta=0.0, smoothing=0.0), layer).loss_sum, layer.head.bias_V)
    p_NV, r_NV = (torch.softmax(logits_of(part.hidden_NH, part.head), -1) for part in (layer, layer.reference))
    torch.testing.assert_close(gradient_NV, (p_NV - r_NV).sum(0), rtol=0, atol=1e-12)


def test_gift_leaves_a_label_alone_that_the_reference_holds_for_impossible() -> None:
    reference_NV = torch.tensor([[0.0, -1000.0, 0.0]], dtype=torch.float64)
    layer = given_logits(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([1]), reference_NV)
    (gradient_NV,) = torch.autograd.grad(fused(Tilted(beta=20.0, smoothing=0.0), layer).loss_sum, layer.hidden_NH)
    assert gradient_NV.tolist() == [pytest.approx([-1 / 6, 1 / 3, -1 / 6])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eksft_without_sets_is_cross_entropy_bit_for_bit(dtype: torch.dtype) -> None:
    layer = random_layer(8, 9, dtype)
    objective = selection(entropy_fraction=0.0, kl_fraction=0.0)
    results = []
    for found in (CrossEntropy(), objective.settled(observe(objective, layer))):
        loss = fused(found, layer, chunk_tokens=4).loss_sum
        results.append((loss.detach(), *gradients(loss / 9, layer)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), entropy_fraction=fractions, kl_fraction=fractions, num_tokens=st.integers(1, 30))
def test_eksft_is_three_means_over_its_sets(
    seed: int, entropy_fraction: float, kl_fraction: float, num_tokens: int
) -> None:
    layer = random_layer(seed, num_tokens)
    objective = selection(entropy_fraction=entropy_fraction, kl_fraction=kl_fraction)
    output = fused(objective.settled(observe(objective, layer)), layer)
    logp, logr = (torch.log_softmax(logits_of(part.hidden_NH, part.head), -1) for part in (layer, layer.reference))
    entropy, kl = -(logp.exp() * logp).sum(-1), (logp.exp() * (logp - logr)).sum(-1)
    flexible, moved = (
        values.argsort(descending=True).argsort() < math.floor(fraction * num_tokens + 1e-9)
        for values, fraction in ((entropy, entropy_fraction), (kl, kl_fraction))
    )

    def mean(values: Tensor, chosen: Tensor) -> Tensor:
        return values[chosen].sum() / max(1, int(chosen.sum()))

    nll = -logp.gather(1, layer.labels_N[:, None])[:, 0]
    expected = mean(nll, ~(flexible | moved)) - 0.05 * mean(entropy / math.log(7), flexible) + 0.05 * mean(kl, moved)
    assert output.loss_sum.item() / num_tokens == pytest.approx(expected.item(), abs=1e-10)
    ours, theirs = gradients(output.loss_sum / num_tokens, layer), gradients(expected, layer)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    means = token_means([output], num_tokens)
    assert means["sft/eksft/entropy_fraction"] == pytest.approx(int(flexible.sum()) / num_tokens)
    assert means["sft/eksft/kl_fraction"] == pytest.approx(int(moved.sum()) / num_tokens)
    assert means["sft/reference/kl"] == pytest.approx(kl.mean().item())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(1, 23), max_size=4), chunk_tokens=st.integers(1, 12))
def test_no_cut_of_a_step_changes_what_eksft_does(seed: int, cuts: list[int], chunk_tokens: int) -> None:
    layer, objective = random_layer(seed, 24), selection()

    def step(bounds: list[int], **options: Any) -> tuple[list[ObjectiveOutput], list[Tensor]]:
        parts = [layer.part(slice(low, high)) for low, high in pairwise(bounds)]
        settled = objective.settled(torch.cat([observe(objective, part, **options) for part in reversed(parts)]))
        outputs = [fused(settled, part, **options) for part in parts]
        return outputs, gradients(torch.stack([output.loss_sum / 24 for output in outputs]).sum(), layer)

    whole, expected = step([0, 24])
    parts, found = step([0, *sorted(set(cuts)), 24], chunk_tokens=chunk_tokens)
    assert token_means(parts, 24) == pytest.approx(token_means(whole, 24), abs=1e-10)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_tokens_that_tie_at_the_border_stay_outside() -> None:
    settled = selection(entropy_fraction=0.5).settled(observed_pairs([3.0, 2.0, 2.0, 1.0], [0.0] * 4))
    assert settled.entropy_border == 2.0
    assert settled.nll_factor == 4 / 3  # One token is above the border.
    assert (settled.entropy_factor, settled.kl_factor) == (0.05 * 4, 0.0)


def test_all_equal_tokens_are_in_no_set_but_that_of_all() -> None:
    equal = observed_pairs([1.0] * 5, [0.5] * 5)
    partial = selection(entropy_fraction=0.8, kl_fraction=0.4).settled(equal)
    assert (partial.nll_factor, partial.entropy_factor, partial.kl_factor) == (1.0, 0.0, 0.0)
    everything = selection(entropy_fraction=1.0, kl_fraction=1.0).settled(equal)
    assert (everything.nll_factor, everything.entropy_factor, everything.kl_factor) == (0.0, 0.05, 0.05)


def test_a_border_keeps_neighbouring_numbers_apart() -> None:
    low = 1.0
    high = float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)))
    settled = selection(entropy_fraction=0.5).settled(observed_pairs([low, high], [0.0, 0.0]))
    assert low < settled.entropy_border < high


@pytest.mark.parametrize(("fraction", "size"), [(0.29, 29), (0.2, 20), (0.001, 0), (1.0, 100)])
def test_a_set_has_the_share_of_tokens_that_was_asked_for(fraction: float, size: int) -> None:
    pairs = observed_pairs([float(number) for number in range(100)], [0.0] * 100)
    settled = selection(entropy_fraction=fraction, entropy_coef=1.0).settled(pairs)
    assert settled.entropy_factor == (100 / size if size else 0.0)
