"""Make what the study of this folder uses: data and base models in which SFT teaches what the base model lacks.

``python examples/countdown/make_study.py`` writes ``study/`` beside this file; ``--check`` compares the data with a
fresh making. A base model can calculate with all four operations, but reaches targets by sums and differences alone:
half of its pretraining are traces that pay no heed to the prompt's target. SFT shows one trace per problem, with
whatever operations it takes.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from make_task import HERE, row_of, write_rows
from task import all_problems, legal_traces, shuffled
from words import write_tokenizer

from service.contract.gold_answers import CountdownGold

FOLDER = HERE / "study"
SPLIT_SEED = 100
NUM_TEST, NUM_DEV, NUM_SFT = 400, 256, 1200
BASE_SEEDS = (0, 1)
"""One base model each: what holds for one may be its own."""
NUM_AIMLESS = 128
"""Of the 256 rows of a pretraining batch."""
CHECKED_FILES = tuple(f"data/{name}.jsonl" for name in ("sft", "rl", "dev", "test"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySplits:
    """Every solvable problem in exactly one list. Settings are chosen on dev, and only test is reported."""

    sft: list[CountdownGold]
    rl: list[CountdownGold]
    dev: list[CountdownGold]
    test: list[CountdownGold]


def split_problems(seed: int = SPLIT_SEED) -> StudySplits:
    """Deal out the problems at random; a problem comes once, so no two splits share one in any number order."""
    rng = random.Random(seed)
    problems = all_problems()
    rng.shuffle(problems)
    problems = [shuffled(problem, rng) for problem in problems]
    dev_end = NUM_TEST + NUM_DEV
    return StudySplits(
        test=problems[:NUM_TEST],
        dev=problems[NUM_TEST:dev_end],
        sft=problems[dev_end : dev_end + NUM_SFT],
        rl=problems[dev_end + NUM_SFT :],
    )


def aimed_traces(problem: CountdownGold) -> list[str]:
    """The legal traces that a base model sees under the right target: sums and differences, and so for many none."""
    return [trace for trace in legal_traces(problem) if not {"*", "/"} & set(trace.split())]


def write_data(splits: StudySplits, folder: Path) -> None:
    """SFT rows hold the biased solver's completion, dev rows that and the gold answer, the others the gold answer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("sft", "rl", "dev", "test"):
        problems: Sequence[CountdownGold] = getattr(splits, name)
        write_rows(folder / f"{name}.jsonl", [row_of(problem, name) for problem in problems])


def write_base_models(splits: StudySplits, folder: Path) -> None:
    """Pretrain one model for each seed on the SFT and RL problems; none sees those of dev and test."""
    # Only this function needs torch; without it --check takes a second.
    import torch
    from base_model import build_model, pretrain, write_model

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for seed in BASE_SEEDS:
        model = build_model(seed)
        pretrain(model, splits.sft + splits.rl, seed, traces=aimed_traces, num_aimless=NUM_AIMLESS)
        write_model(model, folder / f"base-{seed}")
        write_tokenizer(folder / f"base-{seed}")


def changed_files(folder: Path) -> list[str]:
    """Names of the data files under ``folder`` whose bytes differ from a fresh making, or that are missing."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        write_data(split_problems(), fresh / "data")
        return [
            name
            for name in CHECKED_FILES
            if not (folder / name).is_file() or (folder / name).read_bytes() != (fresh / name).read_bytes()
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the Countdown study's data and base models.")
    parser.add_argument("--check", action="store_true", help="compare the shipped data with a fresh making")
    if parser.parse_args().check:
        changed = changed_files(FOLDER)
        print(f"differs from a fresh making: {', '.join(changed)}" if changed else "the data are as made")
        return 1 if changed else 0
    splits = split_problems()
    write_data(splits, FOLDER / "data")
    write_base_models(splits, FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
