"""A peer's trainer on a workload: `python -m bench.sft_peer {trl,transformers} FOLDER --threads N [--record FILE]`.

Runs in an interpreter that has the peers (bench/peers.txt) and needs nothing else of this project. One step a turn, or,
with `--record`, all steps at once, whose loss, gradient norm and learning rate are written as JSON.

Everything that the workload does not say is the peer's own default, but for what would make it do other work: float32,
no gradient checkpointing (TRL's default), samples in the given order, no reports to other services.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bench.turns import Turns


class TakesTurns(TrainerCallback):  # type: ignore[misc]  # transformers is not checked
    """From the beginning of one step to that of the next, so that logging and the next batch are part of a turn."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait for a turn, and leave where none comes."""
        if not self._turns.next():
            raise SystemExit


class Records(TrainerCallback):  # type: ignore[misc]
    """Keeps what the trainer logs about each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """A step's log has a gradient norm; the closing one has none."""
        if logs and "grad_norm" in logs:
            self.steps.append({name: logs[name] for name in ("loss", "grad_norm", "learning_rate")})


def make_trainer(peer: str, folder: Path, callback: TrainerCallback) -> Trainer:
    """The peer's trainer, ready to train the workload."""
    workload = json.loads((folder / "peer.json").read_text())
    settings = {
        **workload["arguments"],
        "output_dir": str(folder / peer),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    samples = Dataset.from_list(workload["samples"])
    parts = {"model": model, "train_dataset": samples, "processing_class": tokenizer, "callbacks": [callback]}
    if peer == "trl":
        import trl  # type: ignore[import-not-found]  # in the peers' environment alone

        trainer: Trainer = trl.SFTTrainer(args=trl.SFTConfig(max_length=None, **settings), **parts)
    else:
        collator = DataCollatorForSeq2Seq(tokenizer)
        trainer = Trainer(args=TrainingArguments(**settings), data_collator=collator, **parts)
    trainer.remove_callback(PrinterCallback)
    return trainer


def versions(peer: str) -> dict[str, str]:
    """What a record was made with."""
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    if peer == "trl":
        import trl

        found["trl"] = trl.__version__
    return found


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["trl", "transformers"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    if arguments.record is None:
        make_trainer(arguments.peer, arguments.folder, TakesTurns(Turns())).train()
        return
    records = Records()
    make_trainer(arguments.peer, arguments.folder, records).train()
    arguments.record.write_text(json.dumps({"versions": versions(arguments.peer), "steps": records.steps}))


if __name__ == "__main__":
    main()
