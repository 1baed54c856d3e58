"""Our trainer on a workload, one step a turn: `python -m bench.sft_ours FOLDER --threads N [--packing]`."""

import argparse
from pathlib import Path

from bench.sft_workload import SEED
from bench.turns import Turns
from service.contract.spec import ModelSpec
from service.contract.stages import SftSpec
from workers.actors.trainer import Trainer


def main() -> None:
    """Prepares the trainer and takes turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--packing", action="store_true")
    arguments = parser.parse_args()
    turns = Turns()
    spec = SftSpec.model_validate_json((arguments.folder / "spec.json").read_text())
    model = ModelSpec(path=str(arguments.folder / "model"))
    trainer = Trainer(model=model, seed=SEED, num_cpus=arguments.threads, num_gpus=0)
    trainer.load()
    trainer.prepare_sft(spec.model_copy(update={"packing": arguments.packing}), str(arguments.folder / "checkpoints"))
    while turns.next():
        trainer.sft_steps(max_steps=1, max_seconds=0.0)


if __name__ == "__main__":
    main()
