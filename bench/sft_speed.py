"""Trained tokens per second and peak memory of our trainer, TRL's SFTTrainer and transformers' Trainer.

The same model (10.6 million parameters, vocabulary 32,000, random weights, float32), samples, order and threads; eight
sequences a step. One program for each trainer, which take turns of one optimizer step on an otherwise idle machine, so
that what disturbs one disturbs all. The first turn is not counted; a figure is the median over the others.

`equal`: every sequence has 512 tokens, so that nobody pads. `mixed`: lengths of real text up to 512 tokens (see
`code_lengths`), where padding costs. Rates count real tokens, prompt and completion, never padding.
"""

import logging
import statistics
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from bench.rows import Row
from bench.sft_workload import (
    TEN_MILLION,
    PairLengths,
    code_lengths,
    equal_lengths,
    step_tokens,
    write_workload,
)
from bench.turns import Contestant, Turn
from service.contract.stages import OptimizerSpec

logger = logging.getLogger(__name__)

BATCH_SIZE, MAX_TOKENS = 8, 512
PEERS_PYTHON = Path(".venv-peers/bin/python")

Program = Literal["ours", "ours_packed", "trl", "transformers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row: which two programs, on what, and what is read of their turns."""

    lengths: Literal["equal", "mixed"]
    ours: Program
    peer: Program
    unit: Literal["tokens/s", "MiB"] = "tokens/s"


COMPARISONS = {
    "tokens_per_s_vs_trl": Comparison(lengths="equal", ours="ours", peer="trl"),
    "tokens_per_s_vs_transformers": Comparison(lengths="equal", ours="ours", peer="transformers"),
    "peak_memory_vs_trl": Comparison(lengths="equal", ours="ours", peer="trl", unit="MiB"),
    "peak_memory_vs_transformers": Comparison(lengths="equal", ours="ours", peer="transformers", unit="MiB"),
    "tokens_per_s_packed_vs_padded": Comparison(lengths="mixed", ours="ours_packed", peer="ours"),
    "tokens_per_s_packed_vs_trl": Comparison(lengths="mixed", ours="ours_packed", peer="trl"),
    "tokens_per_s_packed_vs_transformers": Comparison(lengths="mixed", ours="ours_packed", peer="transformers"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one program."""

    tokens_per_s: float
    peak_mib: float
    """Of the whole process, libraries included."""


def speed_rows(names: Iterable[str], *, rounds: int, threads: int, peers_python: Path) -> dict[str, Row]:
    """The named ones of `COMPARISONS`. Raises SystemExit if they need peers and there is no interpreter of theirs."""
    wanted = {name: COMPARISONS[name] for name in names}
    rows: dict[str, Row] = {}
    for lengths in ("equal", "mixed"):
        chosen = {name: comparison for name, comparison in wanted.items() if comparison.lengths == lengths}
        # In the order of first mention, each once.
        programs = list(dict.fromkeys(program for c in chosen.values() for program in (c.ours, c.peer)))
        if programs:
            measured = measure(programs, _draw(lengths, rounds), threads=threads, peers_python=peers_python)
            rows |= {name: _row(comparison, measured) for name, comparison in chosen.items()}
    return rows


def measure(
    programs: list[Program], lengths: list[PairLengths], *, threads: int, peers_python: Path
) -> dict[Program, Measured]:
    """Train with each of the programs in turns, all steps but the last, which would save a checkpoint."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        spec = write_workload(
            folder,
            TEN_MILLION,
            lengths,
            optimizer=OptimizerSpec(learning_rate=1e-4),
            num_epochs=1,
            batch_size=BATCH_SIZE,
            max_length=MAX_TOKENS,
            save_steps=len(lengths),
        )
        contestants: dict[Program, Contestant] = {
            program: stack.enter_context(
                Contestant(program, _command(program, folder, threads, peers_python), threads=threads)
            )
            for program in programs
        }
        num_tokens = step_tokens(folder, spec)
        turns: dict[Program, list[Turn]] = {program: [] for program in programs}
        for number in range(len(num_tokens) - 1):
            for program, contestant in contestants.items():
                turns[program].append(contestant.take_turn())
            seconds = ", ".join(
                f"{program} {taken[-1].seconds:.2f} s (CPU {taken[-1].cpu_seconds:.2f})"
                for program, taken in turns.items()
            )
            logger.info("speed: round %d of %d: %s", number, len(num_tokens) - 2, seconds)
    return {program: _measured(num_tokens, taken) for program, taken in turns.items()}


def _draw(lengths: Literal["equal", "mixed"], rounds: int) -> list[PairLengths]:
    # One step to warm up and one that is never run.
    num_samples = (rounds + 2) * BATCH_SIZE
    return equal_lengths(num_samples, MAX_TOKENS) if lengths == "equal" else code_lengths(num_samples, MAX_TOKENS)


def _command(program: Program, folder: Path, threads: int, peers_python: Path) -> list[str]:
    settings = [str(folder), "--threads", str(threads)]
    if program in ("ours", "ours_packed"):
        return [sys.executable, "-m", "bench.sft_ours", *settings, *(["--packing"] * (program == "ours_packed"))]
    return [str(require_peers(peers_python)), "-m", "bench.sft_peer", program, *settings]


def require_peers(peers_python: Path) -> Path:
    """The same path, if there is such an interpreter. Raises SystemExit, saying how to make one."""
    if not peers_python.is_file():
        raise SystemExit(
            f"the peers' interpreter {peers_python} does not exist; make it with\n"
            "    python3.11 -m venv .venv-peers && .venv-peers/bin/pip install -r bench/peers.txt\n"
            "or name another one with --peers"
        )
    return peers_python


def _measured(num_tokens: list[int], taken: list[Turn]) -> Measured:
    rates = [tokens / turn.seconds for tokens, turn in zip(num_tokens, taken, strict=False)]
    return Measured(tokens_per_s=statistics.median(rates[1:]), peak_mib=taken[-1].peak_mib)


def _row(comparison: Comparison, measured: dict[Program, Measured]) -> Row:
    ours, peer = measured[comparison.ours], measured[comparison.peer]
    if comparison.unit == "MiB":
        return Row(ours=ours.peak_mib, peer=peer.peak_mib, unit="MiB")
    return Row(ours=ours.tokens_per_s, peer=peer.tokens_per_s, unit="tokens/s")
