"""Make what the study of this folder uses: data and base models in which SFT teaches what the base model lacks.

``python examples/countdown/make_study.py`` writes ``study/`` beside this file; ``--check`` compares the data with a
fresh making. A base model can calculate with all four operations, but reaches targets by sums and differences alone:
half of its pretraining are traces that pay no heed to the prompt's target. SFT shows one trace per problem, with
whatever operations it takes.
"""

import argparse
import sys
from pathlib import Path

import make_task
from make_task import DATA_FILES, HERE, Sizes, Splits, write_data
from task import legal_traces
from words import write_tokenizer

from service.contract.gold_answers import CountdownGold

FOLDER = HERE / "study"
SPLIT_SEED = 100
SIZES = Sizes(test=400, dev=256, sft=1200)
BASE_SEEDS = (0, 1)
"""One base model each: what holds for one may be its own."""
NUM_AIMLESS = 128
"""Of the 256 rows of a pretraining batch."""


def split_problems() -> Splits:
    """Settings are chosen on dev, and only test is reported."""
    return make_task.split_problems(SPLIT_SEED, SIZES)


def aimed_traces(problem: CountdownGold) -> list[str]:
    """The legal traces that a base model sees under the right target: sums and differences, and so for many none."""
    return [trace for trace in legal_traces(problem) if not {"*", "/"} & set(trace.split())]


def write_base_models(splits: Splits, folder: Path) -> None:
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
    return make_task.changed_files(folder, DATA_FILES, lambda fresh: write_data(split_problems(), fresh / "data"))


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
