import sys
from collections.abc import Iterator

import pytest

from bench.turns import Contestant

TAKES_TURNS = """
from bench.turns import Turns
turns = Turns()
while turns.next():
    print("noise that is no answer")
"""


@pytest.fixture
def contestant() -> Iterator[Contestant]:
    with Contestant("program", [sys.executable, "-c", TAKES_TURNS], threads=1) as started:
        yield started


def test_each_turn_is_timed_whatever_the_program_prints(contestant: Contestant) -> None:
    turns = [contestant.take_turn() for _ in range(3)]
    assert all(turn.seconds > 0 and turn.cpu_seconds >= 0 and turn.peak_mib > 0 for turn in turns)


def test_a_program_that_ends_is_named() -> None:
    with (
        pytest.raises(RuntimeError, match="brief ended with exit code 3"),
        Contestant("brief", [sys.executable, "-c", "raise SystemExit(3)"], threads=1) as brief,
    ):
        brief.take_turn()
