"""Whole RL steps a second: ours beside TRL's GRPOTrainer, which take turns step by step on the same model.

32 prompts x 8 completions of 1 to 128 tokens, 41 in the mean; rollouts, rewards, training, new weights for the engine.
The lengths are geometric by the model's making (bench/rl_workload.py), so every program draws the same distribution.
Ours runs in step (`rl.mode: sync`), so that both make each rollout with the policy that is trained on it.

TRL generates in several ways, and each side can have one thread or two: `search` tries what could be the quickest, and
`PEERS` names what was. A figure is the median over the rounds behind the first two.
"""

import logging
import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.rl_workload import NUM_GENERATIONS, NUM_PROMPTS, SIZES, write_rl_workload
from bench.rows import Row
from bench.sft_speed import require_peers
from bench.turns import Contestant, Turn

logger = logging.getLogger(__name__)

WARM_UP = 2
"""Rounds that are not counted: engines compile and caches fill."""
PEER_FAMILY = "trl"
ROWS = {f"samples_per_s_vs_{PEER_FAMILY}_{size}": size for size in SIZES}
"""The size of each row's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One way in which TRL can work; see bench/rl_trl.py."""

    mode: str
    batch: int
    """Completions of one forward and backward pass."""
    threads: int = 1
    eager: bool = True
    """vLLM without compilation."""

    def __str__(self) -> str:
        compiled = ", compiled" * (self.mode == "vllm" and not self.eager)
        return f"{self.mode}{compiled}, {self.batch} a pass, threads {self.threads}"

    def command(self, folder: Path, peers_python: Path) -> list[str]:
        """Of the program."""
        settings = ["--mode", self.mode, "--batch", str(self.batch), "--threads", str(self.threads)]
        return [str(peers_python), "-m", "bench.rl_trl", str(folder), *settings, *(["--eager"] * self.eager)]


PEERS = {"600k": Peer(mode="vllm", batch=64, threads=2), "18m": Peer(mode="vllm", batch=16, threads=2)}
"""The quickest that `search` found."""
THREADS = {"600k": 1, "18m": 2}
"""The quickest of ours: of engine and of trainer, which work by turns."""
CANDIDATES = {
    "600k": [
        *(Peer(mode="vllm", batch=batch, threads=threads) for batch in (32, 64, 256) for threads in (1, 2)),
        *(Peer(mode="generate", batch=64, threads=threads) for threads in (1, 2)),
        Peer(mode="continuous", batch=64),
        Peer(mode="vllm", batch=64, eager=False),
    ],
    "18m": [
        *(Peer(mode="vllm", batch=batch, threads=threads) for batch in (16, 64) for threads in (1, 2)),
        *(Peer(mode="generate", batch=16, threads=threads) for threads in (1, 2)),
    ],
}


def speed_rows(
    names: Iterable[str], *, rounds: int, threads: int | None, peers_python: Path, peer: Peer | None = None
) -> dict[str, Row]:
    """The named ones of `ROWS`; `threads` and `peer` are others than those of `THREADS` and `PEERS`."""
    require_peers(peers_python)
    rows = {}
    for name in names:
        size = ROWS[name]
        ours, theirs = measure(
            size, peer or PEERS[size], rounds=rounds, threads=threads or THREADS[size], peers_python=peers_python
        )
        rows[name] = Row(ours=_rate(ours), peer=_rate(theirs), unit="samples/s")
    return rows


def measure(
    size: str, peer: Peer, *, rounds: int, threads: int, peers_python: Path
) -> tuple[Sequence[Turn], Sequence[Turn]]:
    """The counted turns of ours and of the peer; phases are logged."""
    with TemporaryDirectory(prefix="sedray-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        write_rl_workload(folder, SIZES[size], num_steps=WARM_UP + rounds + 1, threads=threads)
        commands = {
            "ours": [sys.executable, "-m", "bench.rl_sedray", str(folder)],
            PEER_FAMILY: peer.command(folder, peers_python),
        }
        contestants = {
            program: stack.enter_context(
                Contestant(program, command, threads=peer.threads if program == PEER_FAMILY else threads)
            )
            for program, command in commands.items()
        }
        turns: dict[str, list[Turn]] = {program: [] for program in commands}
        for number in range(WARM_UP + rounds):
            for program, contestant in contestants.items():
                turns[program].append(contestant.take_turn())
            _show_round(size, number, turns)
    counted = {program: taken[WARM_UP:] for program, taken in turns.items()}
    _show_phases(size, {"ours": f"ours, threads {threads}", PEER_FAMILY: f"{PEER_FAMILY}: {peer}"}, counted)
    return counted["ours"], counted[PEER_FAMILY]


def search(size: str, *, rounds: int, peers_python: Path) -> dict[Peer, Turn]:
    """The quickest counted turn of each candidate, one program after the other."""
    require_peers(peers_python)
    found = {}
    for peer in CANDIDATES[size]:
        with TemporaryDirectory(prefix="sedray-bench-") as name:
            write_rl_workload(Path(name), SIZES[size], num_steps=rounds + 2)
            with Contestant(str(peer), peer.command(Path(name), peers_python), threads=peer.threads) as contestant:
                taken = [contestant.take_turn() for _ in range(1 + rounds)]
        found[peer] = min(taken[1:], key=lambda turn: turn.seconds)
        logger.info("%s: %-44s %6.2f s (CPU %.2f)", size, peer, found[peer].seconds, found[peer].cpu_seconds)
    return found


def _rate(turns: Sequence[Turn]) -> float:
    return NUM_PROMPTS * NUM_GENERATIONS / statistics.median(turn.seconds for turn in turns)


def _show_round(size: str, number: int, turns: dict[str, list[Turn]]) -> None:
    seconds = ", ".join(
        f"{program} {taken[-1].seconds:.2f} s (CPU {taken[-1].cpu_seconds:.2f})" for program, taken in turns.items()
    )
    logger.info("%s: round %d: %s; load %.1f", size, number - WARM_UP + 1, seconds, os.getloadavg()[0])


def _show_phases(size: str, titles: dict[str, str], counted: dict[str, list[Turn]]) -> None:
    """Medians of where the time goes."""
    for program, turns in counted.items():
        names = Counter(name for turn in turns for name in turn.phases)
        phases = {name: statistics.median(turn.phases.get(name, 0.0) for turn in turns) for name in names}
        shown = ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items())
        whole, cpu = (statistics.median(getattr(turn, name) for turn in turns) for name in ("seconds", "cpu_seconds"))
        tokens = statistics.fmean(turn.mean_length or math.nan for turn in turns)
        logger.info("%s: %s: %.2f s a step (CPU %.2f): %s", size, titles[program], whole, cpu, shown)
        logger.info("%s: %s: %.1f tokens a completion in the mean", size, titles[program], tokens)
