"""The RL stage: beside TRL, ahead of the trainer beside in step, and its weight sync beside loading a checkpoint.

    .venv/bin/python -m bench.rl [--json FILE] [--rows NAME ...]

    samples_per_s_vs_trl_...        whole steps of a model of that size (bench/rl_speed.py)
    async_vs_sync_steps_per_hour    rollouts ahead of the trainer against rollouts in step (bench/rl_async.py)
    weight_sync_vs_reload_speed     new weights for the engine, against saving and loading (bench/rl_weight_sync.py)

The first rows need TRL and vLLM in an environment of their own, with the very libraries of this one:

    python3.11 -m venv .venv-peers && .venv-peers/bin/pip install --no-deps -r requirements.lock
    .venv-peers/bin/pip install --no-deps -r bench/peers.txt

A ratio is ours by the peer's, both from one run on the same machine; above 1 is better. `--search` tries TRL's ways to
work instead, and prints the time of each.
"""

import argparse
import json
import logging
import os
from pathlib import Path

from bench.rl_async import ROW as ASYNC_ROW
from bench.rl_async import async_rows
from bench.rl_speed import ROWS as SPEED_ROWS
from bench.rl_speed import search, speed_rows
from bench.rl_weight_sync import ROW as SYNC_ROW
from bench.rl_weight_sync import SIZES as SYNC_SIZES
from bench.rl_weight_sync import weight_sync_rows
from bench.rows import Row
from bench.sft_speed import PEERS_PYTHON

logger = logging.getLogger(__name__)

ROWS = (*SPEED_ROWS, ASYNC_ROW, SYNC_ROW)


def run(arguments: argparse.Namespace) -> dict[str, Row]:
    """The wanted rows, in the table's order."""
    rows: dict[str, Row] = {}
    if speeds := [name for name in SPEED_ROWS if name in arguments.rows]:
        rows |= speed_rows(speeds, rounds=arguments.rounds, threads=arguments.threads, peers_python=arguments.peers)
    if ASYNC_ROW in arguments.rows:
        rows |= async_rows()
    if SYNC_ROW in arguments.rows:
        rows[SYNC_ROW] = weight_sync_rows(list(SYNC_SIZES), arguments.rounds)[SYNC_ROW]
    return rows


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="NAME", help="all if left out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--threads", type=int, help="of our trainer and our engine beside TRL; the quickest if left out"
    )
    parser.add_argument("--peers", type=Path, default=PEERS_PYTHON, help="the interpreter that has the peers")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.search:
        for name, size in SPEED_ROWS.items():
            if name in arguments.rows:
                search(size, rounds=arguments.rounds, peers_python=arguments.peers)
        return
    rows = run(arguments)
    logger.info("%-36s %10s %10s %8s", f"load {os.getloadavg()[0]:.1f}", "ours", "peer", "ratio")
    for name, row in rows.items():
        logger.info("%-36s %10.3f %10.3f %8.2f %s", name, row.ours, row.peer, row.ratio, row.unit)
    if arguments.json:
        arguments.json.write_text(json.dumps({name: row.as_json() for name, row in rows.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
