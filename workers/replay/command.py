"""The command: exit code 0 if all metrics agree, 1 if some do not, 2 if it cannot be done."""

import argparse
import json
import sys
from collections.abc import Sequence

from workers.config_error import ConfigError
from workers.replay.beginning import CannotReplay
from workers.replay.comparison import Replayed, replay
from workers.replay.rank_processes import RankLost

_EQUAL, _DIFFERENT, _IMPOSSIBLE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay what the arguments say and print it; returns the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        found = replay(asked.output, asked.step, num_ranks=asked.ranks)
    except (CannotReplay, ConfigError, RankLost) as error:
        print(error, file=sys.stderr)
        return _IMPOSSIBLE
    print(_as_json(found) if asked.json else _as_text(found))
    return _EQUAL if all(metric.agrees for metric in found) else _DIFFERENT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.replay",
        description="Train a stored RL step again and compare with what was logged.",
        epilog="Exit code 0: all agree up to rounding; 1: some do not; 2: something is missing.",
    )
    parser.add_argument("output", help="the experiment's output folder or URL")
    parser.add_argument("step", type=int, help="RL step, from 1")
    parser.add_argument("--ranks", type=int, help="trainer processes; default: as many as the run had")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    return parser


def _as_text(found: Sequence[Replayed]) -> str:
    return "\n".join(
        f"{metric.name:<36} logged {metric.logged:<24.17g} again {metric.again:<24.17g}"
        f"{'' if metric.agrees else '  differs'}"
        for metric in found
    )


def _as_json(found: Sequence[Replayed]) -> str:
    rows = [
        {"name": metric.name, "logged": metric.logged, "again": metric.again, "agrees": metric.agrees}
        for metric in found
    ]
    return json.dumps(rows, indent=1)
