"""The Countdown task: all problems, all legal traces of a problem, a biased solver and a fair sampler.

Whatever this module constructs is passed through the verifier, which has the final word on what is legal.
"""

import random
from collections.abc import Iterator
from itertools import combinations_with_replacement, permutations

from service.contract.gold_answers import MAX_COUNTDOWN_VALUE, CountdownGold
from workers.rewards.countdown import calculate, verify_countdown

MAX_NUMBER = 12
"""Problems draw their numbers from 1..12; results and targets may go up to the verifier's limit."""

OPERATORS = ("+", "-", "*", "/")
"""In the order in which the biased solver tries them."""


def all_problems() -> list[CountdownGold]:
    """Every solvable problem once, numbers ascending, targets 1..36; sorted, so the list is the same everywhere."""
    triples = combinations_with_replacement(range(1, MAX_NUMBER + 1), 3)
    return [
        CountdownGold(numbers=triple, target=target)
        for triple in triples
        for target in range(1, MAX_COUNTDOWN_VALUE + 1)
        if any(_end_values(triple, target))
    ]


def same_problem_key(problem: CountdownGold) -> tuple[int, ...]:
    """Equal for problems with the same multiset of numbers and the same target."""
    return (*sorted(problem.numbers), problem.target)


def prompt_text(problem: CountdownGold) -> str:
    """The text a model sees; the completion starts right after it."""
    return f"{problem} :"


def legal_traces(problem: CountdownGold) -> list[str]:
    """All distinct traces the verifier accepts, in the biased solver's order.

    Pairs come in the order of the prompt's numbers, then operators as listed, then the first result on the left.
    """
    traces = dict.fromkeys(_candidate_traces(problem))
    return [trace for trace in traces if verify_countdown(trace, problem)]


def biased_solution(problem: CountdownGold) -> str:
    """The first trace the search finds: the same habit on every problem, which is what narrows a model in SFT."""
    return legal_traces(problem)[0]


def random_solution(problem: CountdownGold, rng: random.Random) -> str:
    """A legal trace, each with the same probability."""
    return rng.choice(legal_traces(problem))


def shuffled(problem: CountdownGold, rng: random.Random) -> CountdownGold:
    """The same problem with its numbers in random order."""
    first, second, third = rng.sample(problem.numbers, 3)
    return CountdownGold(numbers=(first, second, third), target=problem.target)


def _candidate_traces(problem: CountdownGold) -> Iterator[str]:
    for left, right, rest in permutations(problem.numbers):
        for first_operator in OPERATORS:
            middle = calculate(left, first_operator, right)
            if middle is None:
                continue
            first = f"{left} {first_operator} {right} = {middle}"
            for operator in OPERATORS:
                for one, other in ((middle, rest), (rest, middle)):
                    if calculate(one, operator, other) == problem.target:
                        yield f"{first} ; {one} {operator} {other} = {problem.target}"


def _end_values(numbers: tuple[int, int, int], target: int) -> Iterator[bool]:
    problem = CountdownGold(numbers=numbers, target=target)
    return (verify_countdown(trace, problem) for trace in _candidate_traces(problem))
