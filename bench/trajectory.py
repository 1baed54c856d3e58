"""Our trainer and TRL's SFTTrainer, step by step: `python -m bench.trajectory [--record FILE]`.

The same tiny model, samples, order and AdamW in float32, under each schedule that both have. Compared at every step:
loss, gradient norm before clipping, and learning rate. `--record` writes TRL's numbers, which the unit tests hold our
trainer to without having TRL. See bench/sft.py for the environment that TRL needs.

Where the two agree and where they do not:

- Both divide a step's loss by its label tokens, over all micro-batches.
- After the warm-up the rate of step s is the same function of s. In transformers' warm-up it is (s - 1) / warm-up
  steps, so that the first step changes nothing; ours is s / warm-up steps. Compared without a warm-up.
- transformers exempts biases and norms from weight decay by their names, we by their number of dimensions: the same
  parameters here.
- TRL checkpoints gradients and computes in bfloat16 unless told otherwise; bench/sft_peer.py tells it.
"""

import argparse
import json
import logging
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

from bench.sft_speed import PEERS_PYTHON, require_peers
from bench.sft_workload import SEED, TINY, PairLengths, write_workload
from service.contract.spec import ModelSpec
from service.contract.stages import OptimizerSpec, SftSpec
from workers.actors.trainer import Trainer

logger = logging.getLogger(__name__)

Schedule: TypeAlias = Literal["constant", "linear", "cosine", "wsd"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear", "cosine", "wsd")
NUM_STEPS = 50
LEARNING_RATE = 1e-3
"""AdamW turns rounding in tiny gradients into steps of this size. At 5e-3 two runs of our own trainer that only split a
batch differently drift 1e-4 apart within the 50 steps; at this rate 1e-7."""
OUR_NAMES = {"loss": "sft/loss", "grad_norm": "sft/grad_norm", "learning_rate": "sft/learning_rate"}
"""By the names in a trajectory, which are the peer's."""
TOLERANCE = 1e-5
PEER_TIMEOUT_S = 600

Trajectory = dict[str, list[float]]
"""`NUM_STEPS` values of each of `OUR_NAMES`."""


def write_trajectory(folder: Path, schedule: Schedule, **changes: Any) -> SftSpec:
    """The workload: 50 steps of four samples of 4 to 18 tokens, five epochs in all. `changes` are of `SftSpec`."""
    lengths = [PairLengths(prompt=2 + index % 4, completion=2 + index * 7 % 13) for index in range(40)]
    optimizer = OptimizerSpec(learning_rate=LEARNING_RATE, lr_schedule=schedule, weight_decay=0.1)
    settings: dict[str, Any] = {"optimizer": optimizer, "num_epochs": 5, "batch_size": 4, "max_length": 32}
    return write_workload(folder, TINY, lengths, **(settings | changes))


def train_ours(folder: Path, spec: SftSpec) -> Trajectory:
    """All steps of our trainer on the workload in `folder`."""
    trainer = Trainer(model=ModelSpec(path=str(folder / "model")), seed=SEED, num_cpus=1, num_gpus=0)
    trainer.load()
    trainer.prepare_sft(spec, str(folder / "checkpoints"))
    steps = trainer.sft_steps(max_steps=NUM_STEPS, max_seconds=PEER_TIMEOUT_S).steps
    return {name: [step.values[ours] for step in steps] for name, ours in OUR_NAMES.items()}


def train_trl(folder: Path, peers_python: Path) -> tuple[Trajectory, dict[str, str]]:
    """All steps of TRL's trainer on the same workload, and the versions it was made with."""
    record = folder / "record.json"
    command = [str(require_peers(peers_python)), "-m", "bench.sft_peer", "trl", str(folder), "--threads", "1"]
    subprocess.run([*command, "--record", str(record)], check=True, timeout=PEER_TIMEOUT_S)
    recorded = json.loads(record.read_text())
    return {name: [step[name] for step in recorded["steps"]] for name in OUR_NAMES}, recorded["versions"]


def largest_difference(one: list[float], other: list[float]) -> float:
    """Over all steps."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Compares all schedules, and ends with exit code 1 if any differs by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=PEERS_PYTHON, help="the interpreter that has TRL")
    parser.add_argument("--record", type=Path, help="file for TRL's numbers")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    record: dict[str, Any] = {"trajectories": {}}
    worst = 0.0
    for schedule in SCHEDULES:
        with TemporaryDirectory() as name:
            spec = write_trajectory(Path(name), schedule)
            peer, record["versions"] = train_trl(Path(name), arguments.peers)
            ours = train_ours(Path(name), spec)
        record["trajectories"][schedule] = peer
        differences = {what: largest_difference(ours[what], peer[what]) for what in OUR_NAMES}
        worst = max(worst, *differences.values())
        shown = ", ".join(f"{what} {difference:.1e}" for what, difference in differences.items())
        logger.info("%-9s loss %.4f to %.4f; largest differences: %s", schedule, *_ends(ours["loss"]), shown)
    if arguments.record:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    if worst > TOLERANCE:
        raise SystemExit(f"the trajectories differ by up to {worst:.1e}, more than {TOLERANCE:g}")


def _ends(values: list[float]) -> tuple[float, float]:
    return values[0], values[-1]


if __name__ == "__main__":
    main()
