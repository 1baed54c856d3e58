"""When a sample counts as right."""

from collections.abc import Iterable

CORRECT_FROM = 1.0
"""Rewards from here on mean a right completion."""


def num_correct(rewards: Iterable[float]) -> int:
    """Right samples of a prompt."""
    return sum(reward >= CORRECT_FROM for reward in rewards)
