"""Score answers with the exact verifier: rows of ``prompt``, ``answer`` (the gold) and ``completion`` in a JSONL file.

``python examples/countdown/verify.py answers.jsonl``
"""

import argparse
import json
import sys
from pathlib import Path

from service.contract.gold_answers import parse_countdown_gold
from workers.rewards.countdown import verify_countdown


def score(path: Path) -> tuple[int, int]:
    """Numbers of right and of all rows; blank lines don't count.

    Raises ValueError, naming the line, for a row that lacks a key or has an unreadable gold answer.
    """
    num_right = num_rows = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            right = verify_countdown(row["completion"], parse_countdown_gold(row["answer"]))
        except KeyError as missing:
            raise ValueError(f"{path}, line {number}: key {missing} is missing; add it to the row") from missing
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        num_right += right
        num_rows += 1
    return num_right, num_rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Score Countdown completions with the exact verifier.")
    parser.add_argument("path", type=Path, help="JSONL with prompt, answer and completion")
    try:
        num_right, num_rows = score(parser.parse_args().path)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    share = num_right / num_rows if num_rows else 0.0
    print(f"{num_right} of {num_rows} completions are right ({share:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
