"""The memory plan against the trainer's real peak on the CPU: anonymous memory of a process of its own.

Plan over peak, process included, two micro-batches a step, sequences of 511 inputs (Qwen3, float32 / bfloat16):

    parameters    tokens    plain          checkpointed
      8.3 M        1024     1.28 / 1.22    1.28 / 1.24
      8.3 M        2048     1.19 / 1.21    1.20 / 1.19
      8.3 M        4096     1.14 / 1.11    1.00 / 1.20
     50.5 M        1024     1.08 / -       1.07 / -
     50.5 M        2048        -           0.95 / -

and as this test measures it, 1024 tokens, float32: 1.18 and 1.22 for 0.2 M, 1.21 and 1.20 for 8.3 M, 1.15 and 1.07 for
50 M parameters. Each of two ranks: 1.20 for 8.3 M, 1.00 for 50 M parameters. An engine of 0.2 M parameters: 1.07.
"""

import multiprocessing
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from service.contract.spec import ExperimentSpec
from service.planning.memory_plan import Memory, plan_memory
from service.planning.model_folder import inspect_model
from tests.workers.tiny_model import make_tokenizer, write_lines
from workers.actors.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = {
    "0.2M": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "head_dim": 16},
    "10M": {"vocab_size": 8000, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "head_dim": 32},
    "50M": {
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 10,
        "head_dim": 64,
    },
}
LENGTH = 512
NUM_SAMPLES = 4
TOKENS_PER_MICROBATCH = 1024


def make_spec(folder: Path, size: str, **model: Any) -> ExperimentSpec:
    """Two micro-batches of full length a step."""
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True}
    Qwen3ForCausalLM(Qwen3Config(**SIZES[size], **heads, eos_token_id=1, pad_token_id=0)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    row = {"prompt": "w1 w2", "completion": " ".join(["w3"] * (LENGTH - 3))}
    sft = {
        "data": {"path": write_lines(folder / "sft.jsonl", [row] * NUM_SAMPLES)},
        "optimizer": {"learning_rate": 1e-4},
        "num_epochs": 2,
        "batch_size": NUM_SAMPLES,
        "max_length": LENGTH,
        "max_tokens_per_microbatch": TOKENS_PER_MICROBATCH,
    }
    return ExperimentSpec.model_validate({"name": "memory", "model": {"path": str(folder), **model}, "sft": sft})


def peak_of_training(spec: ExperimentSpec, folder: Path) -> int:
    """Bytes at the peak of a process that trains the SFT stage."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(spec, str(folder / "checkpoints"), sender))
    process.start()
    process.join(500)
    assert process.exitcode == 0
    peak: int = receiver.recv()
    return peak


def _train(spec: ExperimentSpec, checkpoints: str, result: Connection) -> None:
    torch.set_num_threads(1)
    done, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert spec.sft is not None
    trainer = Trainer(model=spec.model, seed=0, num_cpus=1, num_gpus=0)
    trainer.load()
    trainer.prepare_sft(spec.sft, checkpoints)
    trainer.sft_steps(max_steps=10, max_seconds=1000.0)
    done.set()
    watcher.join()
    result.send(peak)


def _anonymous_bytes() -> int:
    """What the kernel cannot take back: without the pages of files, such as the weights before they are changed."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell RssAnon")


@pytest.mark.parametrize("size", ["0.2M", "10M"])  # 50M holds too and takes half a minute each time
@pytest.mark.parametrize("gradient_checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_the_plan_is_not_below_the_peak_and_not_far_above(
    tmp_path: Path, size: str, gradient_checkpointing: bool
) -> None:
    spec = make_spec(tmp_path / "model", size, gradient_checkpointing=gradient_checkpointing)
    [plan] = plan_memory(spec, inspect_model(spec.model.path).shape, Memory())
    peak = peak_of_training(spec, tmp_path)
    assert 0.9 * peak < plan.total_bytes < 1.5 * peak
