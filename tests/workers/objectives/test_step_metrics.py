"""Means over parts, and quantiles from a histogram, over a whole step."""

import math

import pytest
import torch

from workers.objectives.base import ObjectiveOutput, token_statistics
from workers.objectives.sed_sft import SelectivePenalty
from workers.objectives.step_metrics import merged, share_histogram, share_quantile, token_means


def sed_output(seed: int, num_tokens: int, tau: float) -> tuple[ObjectiveOutput, torch.Tensor, torch.Tensor]:
    """SED's sums over random tokens, their label probabilities and their top-2 masses."""
    generator = torch.Generator().manual_seed(seed)
    logits_NV = 2.0 * torch.randn(num_tokens, 6, dtype=torch.float64, generator=generator)
    statistics = token_statistics(logits_NV, torch.randint(0, 6, (num_tokens,), generator=generator), top_k=2)
    assert statistics.topk_mass_N is not None
    output = SelectivePenalty(lambda_=1.0, top_k=2, tau=tau)(statistics)
    return output, torch.exp(-statistics.nll_N), statistics.topk_mass_N


def test_parts_are_averaged_over_their_own_tokens() -> None:
    first, second = sed_output(0, 30, 0.8), sed_output(1, 50, 0.8)
    values = token_means([first[0], second[0]], 80)
    prob_N, mass_N = torch.cat([first[1], second[1]]), torch.cat([first[2], second[2]])
    assert values["sft/sed/penalised/prob"] == pytest.approx(prob_N[mass_N < 0.8].mean().item())
    assert values["sft/sed/kept/prob"] == pytest.approx(prob_N[mass_N >= 0.8].mean().item())


def test_an_empty_part_has_no_mean() -> None:
    values = token_means([sed_output(0, 30, 0.0)[0]], 30)
    assert "sft/sed/penalised/prob" not in values
    assert math.isfinite(values["sft/sed/kept/entropy"])


def test_quantiles_of_the_step_are_right_to_a_bin() -> None:
    first, second = sed_output(0, 3000, 0.8), sed_output(1, 5000, 0.8)
    values = token_means([first[0], second[0]], 8000)
    mass_N = torch.cat([first[2], second[2]])
    for name, quantile in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        assert values[f"sft/sed/topk_mass/{name}"] == pytest.approx(torch.quantile(mass_N, quantile).item(), abs=2e-3)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.0000001])
def test_shares_at_the_ends_are_counted(share: float) -> None:
    counts = share_histogram(torch.tensor([share]))
    assert int(counts.sum()) == 1
    assert share_quantile(counts, 0.5) == pytest.approx(share, abs=1e-3)


def test_chunks_add_up() -> None:
    outputs = [sed_output(seed, 20, 0.8)[0] for seed in range(3)]
    assert token_means([merged(outputs)], 60) == pytest.approx(token_means(outputs, 60), abs=1e-12)
