"""The chaos test with as many experiments as wanted: `python -m tests.chaos --experiments 50 --seed 3`."""

import argparse
import os
import sys

import pytest


def main() -> int:
    """Runs it; returns pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--experiments", type=int, default=50, help="how many are submitted")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed, and when")
    given = parser.parse_args()
    os.environ |= {"SEDRAY_CHAOS_EXPERIMENTS": str(given.experiments), "SEDRAY_CHAOS_SEED": str(given.seed)}
    return pytest.main(["-q", "-s", "tests/chaos"])


if __name__ == "__main__":
    sys.exit(main())
