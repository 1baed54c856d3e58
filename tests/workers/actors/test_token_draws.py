"""Draws against a slow oracle, against their distribution, and from call to call."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.actors.token_draws import draw, uniforms

MASK = 2**64 - 1
NUM_DRAWS = 200_000


def mixed(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)


def slow_uniform(seed: int, place: int) -> float:
    gamma = 0x9E3779B97F4A7C15
    return (mixed(mixed(seed + gamma & MASK) + place * gamma & MASK) >> 11) * 2.0**-53


def slow_draw(logits: list[float], uniform: float) -> int:
    """One by one, in exact sums of the same float32 weights."""
    row = torch.tensor(logits)
    weights = torch.exp(row - row.max()).double().tolist()
    target, total = uniform * math.fsum(weights), 0.0
    for token, weight in enumerate(weights):
        total += weight
        if total > target:
            return token
    raise AssertionError("the weights add up to less than their sum")


def seeded(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Seeds and places of `count` requests, all different."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 2**63, count, dtype=np.uint64), generator.integers(0, 10_000, count)


def make_logits(rows: int, vocabulary: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(vocabulary))


@given(seed=st.integers(0, 2**63 - 1), place=st.integers(0, 2**31))
def test_uniforms_are_those_of_the_oracle(seed: int, place: int) -> None:
    [found] = uniforms(np.array([seed], dtype=np.uint64), np.array([place]))
    assert found == slow_uniform(seed, place)
    assert 0.0 <= found < 1.0


@pytest.mark.parametrize("vocabulary", [1, 2, 70, 255, 257, 1000, 4096, 32_001])
def test_draws_are_those_of_the_oracle(vocabulary: int) -> None:
    logits_BV = make_logits(40, vocabulary)
    uniforms_B = uniforms(*seeded(40))
    tokens_B, logprobs_B = draw(logits_BV, uniforms_B)
    expected = [slow_draw(row, uniform) for row, uniform in zip(logits_BV.tolist(), uniforms_B.tolist(), strict=True)]
    assert tokens_B.tolist() == expected
    exact_B = logits_BV.double().log_softmax(1).gather(1, tokens_B.unsqueeze(1)).squeeze(1).float()
    torch.testing.assert_close(logprobs_B, exact_B, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("vocabulary", [70, 600])
def test_tokens_come_as_often_as_the_distribution_says(vocabulary: int) -> None:
    """Pearson's statistic within five standard deviations of its mean."""
    logits_V = make_logits(1, vocabulary, scale=1.0)[0]
    seeds, places = np.full(NUM_DRAWS, 7, dtype=np.uint64), np.arange(NUM_DRAWS)
    parts = np.array_split(uniforms(seeds, places), 100)
    tokens = torch.cat([draw(logits_V.expand(len(part), -1).contiguous(), part)[0] for part in parts])
    expected_V = logits_V.double().softmax(0) * NUM_DRAWS
    assert float(expected_V.min()) > 5.0
    found = float(((torch.bincount(tokens, minlength=vocabulary) - expected_V) ** 2 / expected_V).sum())
    assert abs(found - (vocabulary - 1)) < 5 * math.sqrt(2 * (vocabulary - 1))


@pytest.mark.parametrize("neighbours", ["places", "seeds"])
def test_neighbouring_draws_are_independent(neighbours: str) -> None:
    """Neither the places of one request nor the seeds of one place follow each other."""
    rising, fixed = np.arange(NUM_DRAWS), np.full(NUM_DRAWS, 5)
    seeds, places = (fixed, rising) if neighbours == "places" else (rising, fixed)
    found = uniforms(seeds.astype(np.uint64), places) - 0.5
    for lag in (1, 2, 3):
        correlation = 12 * float(np.mean(found[lag:] * found[:-lag]))
        assert abs(correlation) < 5 / math.sqrt(NUM_DRAWS)


@settings(max_examples=50, deadline=None)
@given(
    vocabulary=st.sampled_from([3, 130, 256, 257, 400, 1024]),
    kept=st.lists(st.integers(0, 1023), min_size=1, max_size=4),
    uniform=st.sampled_from([0.0, 2.0**-53, 0.25, 0.5, 1.0 - 2.0**-53]),
)
def test_a_token_of_probability_0_is_never_drawn(vocabulary: int, kept: list[int], uniform: float) -> None:
    allowed = {token % vocabulary for token in kept}
    logits_BV = torch.full((1, vocabulary), -math.inf)
    logits_BV[0, sorted(allowed)] = torch.linspace(-30.0, 30.0, len(allowed))
    tokens_B, logprobs_B = draw(logits_BV, np.array([uniform]))
    assert int(tokens_B) in allowed
    assert math.isfinite(float(logprobs_B))


def test_a_request_draws_the_same_in_any_company() -> None:
    logits_BV, (seeds, places) = make_logits(300, 5000), seeded(300)
    together, _ = draw(logits_BV, uniforms(seeds, places))
    for rows in (slice(0, 1), slice(7, 11), slice(299, 300)):
        alone, _ = draw(logits_BV[rows], uniforms(seeds[rows], places[rows]))
        assert torch.equal(alone, together[rows])
