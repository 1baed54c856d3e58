"""pass@k without bias."""

from math import comb


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that at least one of `k` samples is right, estimated from `num_samples` of which `num_correct` are.

    1 - C(n-c, k) / C(n, k), the share of k-subsets with a right sample (arXiv 2107.03374, section 2.1), in exact
    integers up to the last division. Its mean over prompts is unbiased; for k = n it is 1 once one sample is right.

    Raises ValueError if k or `num_correct` isn't possible for so many samples.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} cannot be estimated from {num_samples} samples: draw at least k samples a prompt")
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"{num_correct} right samples among {num_samples} are impossible")
    subsets = comb(num_samples, k)
    return (subsets - comb(num_samples - num_correct, k)) / subsets


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4 … up to `most`: the k of a pass@k curve, which is read on a logarithmic axis."""
    return [1 << exponent for exponent in range(most.bit_length())]
