"""pass@k against the definition: the share of k-subsets that hold a right sample."""

from fractions import Fraction
from itertools import combinations

import pytest

from workers.evaluation.pass_at_k import pass_at_k


@pytest.mark.parametrize("num_samples", range(1, 8))
def test_equals_the_share_of_subsets_with_a_right_sample(num_samples: int) -> None:
    for num_correct in range(num_samples + 1):
        right = [True] * num_correct + [False] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(combinations(right, k))
            assert pass_at_k(num_samples, num_correct, k) == float(Fraction(sum(map(any, subsets)), len(subsets)))


def test_is_exact_where_a_product_of_floats_would_not_be() -> None:
    assert pass_at_k(1000, 0, 500) == 0.0
    assert pass_at_k(1000, 501, 500) == 1.0
    assert pass_at_k(1000, 1, 500) == 0.5


@pytest.mark.parametrize(("num_samples", "num_correct", "k"), [(4, 1, 5), (4, 1, 0), (0, 0, 1), (4, 5, 1), (4, -1, 1)])
def test_impossible_counts_are_refused(num_samples: int, num_correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(num_samples, num_correct, k)
