"""How spread the policy is, from the log-probs of what it sampled.

A token drawn from p has -log p(token) = H(p) in the mean, and the same holds for whole completions. So the entropy is
estimated from no other log-probs than those that the engine returns anyway. The distribution is the one that was drawn
from: temperature applied. A completion that the length limit cut counts with the tokens it has.
"""

from collections.abc import Sequence
from statistics import fmean


def token_entropy(logprob_sums: Sequence[float], lengths: Sequence[int]) -> float:
    """Nats per token of a prompt's samples: the sum of -log p over all their tokens, divided by the tokens.

    `logprob_sums` and `lengths` run over the samples. Raises ValueError unless the samples have tokens.
    """
    num_tokens = sum(lengths)
    if num_tokens < 1:
        raise ValueError("token entropy is a mean over sampled tokens; the prompt's samples have none")
    return -sum(logprob_sums) / num_tokens


def sequence_entropy(logprob_sums: Sequence[float]) -> float:
    """Nats per completion of a prompt: the mean of -log p(completion) over its samples.

    Raises StatisticsError (a ValueError) if there is no sample.
    """
    return -fmean(logprob_sums)
