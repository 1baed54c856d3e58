"""The SFT stage beside its peers: `python -m bench.sft [--json FILE] [--rows NAME ...]`.

    sed_fused_vs_...      time and memory of the output layer with its loss (bench/sft_loss.py)
    tokens_per_s_...      the whole trainer, and peak_memory_... with it (bench/sft_speed.py)

The trainer's rows need TRL and transformers in an environment of their own, since their pins need not be this
project's. PyTorch's CPU build is enough:

    python3.11 -m venv .venv-peers && .venv-peers/bin/pip install -r bench/peers.txt

A ratio is ours by the peer's, both from one run: below 1 is better for times and memory, above 1 for rates.
"""

import argparse
import json
import logging
import os
from pathlib import Path

import torch

from bench.rows import Row
from bench.sft_loss import MEMORY_ROWS, TIME_ROWS, Sizes, memory_rows, time_rows
from bench.sft_speed import COMPARISONS, PEERS_PYTHON, speed_rows

logger = logging.getLogger(__name__)

ROWS = (*TIME_ROWS, *MEMORY_ROWS, *COMPARISONS)


def run(arguments: argparse.Namespace) -> dict[str, Row]:
    """The wanted rows, in the table's order."""
    sizes = Sizes(tokens=arguments.tokens, hidden=arguments.hidden, vocabulary=arguments.vocabulary)
    wanted = [name for name in ROWS if name in arguments.rows]
    rounds, threads = arguments.rounds, arguments.threads
    rows: dict[str, Row] = {}
    if memory := [name for name in wanted if name in MEMORY_ROWS]:
        rows |= memory_rows(memory, sizes, threads=threads)
    if times := [name for name in wanted if name in TIME_ROWS]:
        rows |= time_rows(times, sizes, rounds=rounds)
    if speeds := [name for name in wanted if name in COMPARISONS]:
        rows |= speed_rows(speeds, rounds=rounds, threads=threads, peers_python=arguments.peers)
    return {name: rows[name] for name in wanted}


def show(rows: dict[str, Row], title: str) -> None:
    """Logs the table."""
    logger.info("%-36s %10s %10s %8s", title, "ours", "peer", "ratio")
    for name, row in rows.items():
        logger.info("%-36s %10.2f %10.2f %8.3f %s", name, row.ours, row.peer, row.ratio, row.unit)


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="NAME", help="all if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens", type=int, default=4096, help="of the loss alone")
    parser.add_argument("--hidden", type=int, default=512, help="of the loss alone")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="of the loss alone")
    parser.add_argument("--peers", type=Path, default=PEERS_PYTHON, help="the interpreter that has the peers")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    rows = run(arguments)
    show(rows, f"{arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({name: row.as_json() for name, row in rows.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
