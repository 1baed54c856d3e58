"""Make everything the task ships: data, tokenizer and base model.

``python examples/countdown/make_task.py`` writes ``data/`` and ``base/`` beside this file, in a minute or two of one
core. ``--check`` makes data and tokenizer in a temporary folder and compares them with the shipped bytes. The base
model is left out of the comparison: its last digits depend on the processor.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from task import all_problems, biased_solution, prompt_text, shuffled
from words import write_tokenizer

from service.contract.gold_answers import CountdownGold

HERE = Path(__file__).parent
SEED = 0
DATA_FILES = ("data/sft.jsonl", "data/rl.jsonl", "data/dev.jsonl", "data/test.jsonl")
CHECKED_FILES = (*DATA_FILES, "base/tokenizer.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Problems of each split; RL has the rest."""

    test: int
    dev: int
    sft: int


SIZES = Sizes(test=256, dev=256, sft=600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Every solvable problem in exactly one list; numbers in the order in which the prompt shows them."""

    sft: list[CountdownGold]
    rl: list[CountdownGold]
    dev: list[CountdownGold]
    test: list[CountdownGold]


def split_problems(seed: int = SEED, sizes: Sizes = SIZES) -> Splits:
    """Deal out the problems at random; a problem comes once, so no two splits share one in any number order."""
    rng = random.Random(seed)
    problems = all_problems()
    rng.shuffle(problems)
    problems = [shuffled(problem, rng) for problem in problems]
    first_sft = sizes.test + sizes.dev
    first_rl = first_sft + sizes.sft
    return Splits(
        test=problems[: sizes.test],
        dev=problems[sizes.test : first_sft],
        sft=problems[first_sft:first_rl],
        rl=problems[first_rl:],
    )


def write_data(splits: Splits, folder: Path) -> None:
    """SFT rows hold the biased solver's completion, the others the gold answer, and those of dev both."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, problems in (("sft", splits.sft), ("rl", splits.rl), ("dev", splits.dev), ("test", splits.test)):
        write_rows(folder / f"{name}.jsonl", [row_of(problem, name) for problem in problems])


def write_base_model(splits: Splits, folder: Path) -> None:
    """Pretrain on the SFT and RL problems; the model never sees the problems of dev and test."""
    # Only this function needs torch; without it --check takes a second.
    import torch
    from base_model import build_model, pretrain, write_model

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = build_model(SEED)
    pretrain(model, splits.sft + splits.rl, SEED)
    write_model(model, folder)


def _make_checked(folder: Path) -> None:
    write_data(split_problems(), folder / "data")
    write_tokenizer(folder / "base")


def changed_files(
    folder: Path, names: Sequence[str] = CHECKED_FILES, make: Callable[[Path], None] = _make_checked
) -> list[str]:
    """Those of the named files under ``folder`` whose bytes differ from a fresh making, or that are missing."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        make(fresh)
        return [
            name
            for name in names
            if not (folder / name).is_file() or (folder / name).read_bytes() != (fresh / name).read_bytes()
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the Countdown task's data, tokenizer and base model.")
    parser.add_argument("--check", action="store_true", help="compare what is shipped with a fresh making")
    if parser.parse_args().check:
        changed = changed_files(HERE)
        print(f"differs from a fresh making: {', '.join(changed)}" if changed else "data and tokenizer are as made")
        return 1 if changed else 0
    splits = split_problems()
    write_data(splits, HERE / "data")
    write_tokenizer(HERE / "base")
    write_base_model(splits, HERE / "base")
    return 0


def row_of(problem: CountdownGold, split: str) -> dict[str, str]:
    """The row of a problem in one of the splits."""
    row = {"prompt": prompt_text(problem)}
    if split in ("sft", "dev"):
        row["completion"] = biased_solution(problem)
    if split != "sft":
        row["answer"] = str(problem)
    return row


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
