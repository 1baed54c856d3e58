"""Parses gold answers as the math reward will: the service starts this program and bounds its time.

Input: a JSON list of texts. Output: a line for each, `null` or the problem as a JSON text, as soon as it is known.
"""

import json
import sys

from workers.rewards.math_answer import parse_gold
from workers.rewards.process_limits import limit_memory
from workers.rewards.samples import GoldUnreadable

_MAX_MEMORY_MB = 4096


def main() -> None:
    """One list, one line for each of its texts."""
    limit_memory(_MAX_MEMORY_MB)
    for text in json.load(sys.stdin):
        sys.stdout.write(json.dumps(_problem(text)) + "\n")
        sys.stdout.flush()


def _problem(text: str) -> str | None:
    try:
        parse_gold(text)
    except GoldUnreadable as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
