"""Entropy from the log-probs of samples: its mean over draws is the entropy."""

import itertools
import math

import pytest

from workers.evaluation.entropy import sequence_entropy, token_entropy

# Two tokens, drawn one after the other; the second depends on the first.
FIRST = {"a": 0.7, "b": 0.3}
SECOND = {"a": {"c": 0.5, "d": 0.5}, "b": {"c": 0.9, "d": 0.1}}


def test_the_mean_over_all_draws_is_the_entropy() -> None:
    completions = [FIRST[first] * SECOND[first][second] for first, second in itertools.product("ab", "cd")]
    entropy = -sum(p * math.log(p) for p in completions)
    pairs = list(itertools.product(completions, repeat=2))
    of_sequences = sum(p * q * sequence_entropy([math.log(p), math.log(q)]) for p, q in pairs)
    of_tokens = sum(p * q * token_entropy([math.log(p), math.log(q)], [2, 2]) for p, q in pairs)
    assert of_sequences == pytest.approx(entropy)
    assert of_tokens == pytest.approx(entropy / 2)


def test_every_token_counts_once_whatever_its_sample() -> None:
    assert token_entropy([-1.0, -5.0], [1, 5]) == pytest.approx(1.0)
    assert token_entropy([-9.0, 0.0], [1, 8]) == pytest.approx(1.0)


def test_samples_without_tokens_have_no_entropy() -> None:
    with pytest.raises(ValueError, match="none"):
        token_entropy([0.0], [0])
