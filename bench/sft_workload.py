"""What a comparison trains: a model with random weights, pairs of text, and the same samples as peers take them.

A workload is a folder, so that programs in other interpreters can train it too:

    model/         config, weights and a tokenizer whose words are `w0`, `w1`, ...
    pairs.jsonl    prompts and completions
    spec.json      the `SftSpec`
    peer.json      training arguments by transformers' names, and token ids with labels in the trainer's own order
"""

import ast
import json
import math
import random
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from service.contract.data import SupervisedData
from service.contract.stages import SftSpec
from workers.actors.optimization import DECAY_RATIO
from workers.data.sft_dataset import load_sft_dataset
from workers.data.token_sequence import TokenSequence

SEED = 0
_SPECIAL = ["<pad>", "<eos>", "<unk>"]
_IGNORED = -100
_SCHEDULES = {"constant": "constant", "linear": "linear", "cosine": "cosine", "wsd": "warmup_stable_decay"}
"""transformers' names. Its formulas are the same but for the warm-up, which begins a step later, with a step at rate 0:
workloads have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Of a Qwen3 with tied embeddings."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int


TEN_MILLION = ModelShape(vocabulary=32_000, hidden=256, intermediate=640, layers=3, heads=4)
"""10.6 million parameters, 8.2 of them embeddings."""
TINY = ModelShape(vocabulary=64, hidden=32, intermediate=64, layers=2, heads=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLengths:
    """Tokens of one sample; its end token counts for the completion."""

    prompt: int
    completion: int


def write_workload(folder: Path, shape: ModelShape, lengths: list[PairLengths], **settings: Any) -> SftSpec:
    """Write a workload and return its specification. `settings` are those of `SftSpec` without its data."""
    _write_model(folder / "model", shape)
    _write_pairs(folder / "pairs.jsonl", shape, lengths)
    spec = SftSpec(data=SupervisedData(path=str(folder / "pairs.jsonl")), **settings)
    (folder / "spec.json").write_text(spec.model_dump_json(indent=2))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    batches = ordered_batches(spec, tokenizer)
    peer = {"arguments": _peer_arguments(spec, len(batches)), "samples": [_for_peer(s) for b in batches for s in b]}
    (folder / "peer.json").write_text(json.dumps(peer))
    return spec


def ordered_batches(spec: SftSpec, tokenizer: PreTrainedTokenizerBase) -> list[list[TokenSequence]]:
    """The samples of each step, as the trainer takes them under `SEED`."""
    dataset = load_sft_dataset(spec, tokenizer)
    num_steps = spec.num_epochs * dataset.num_steps_per_epoch(spec.batch_size)
    return [dataset.batch(step, batch_size=spec.batch_size, seed=SEED) for step in range(1, num_steps + 1)]


def step_tokens(folder: Path, spec: SftSpec) -> list[int]:
    """Tokens of each step's samples, prompts and completions, in a folder that `write_workload` wrote."""
    lengths = [len(sample["input_ids"]) for sample in json.loads((folder / "peer.json").read_text())["samples"]]
    return [sum(lengths[start : start + spec.batch_size]) for start in range(0, len(lengths), spec.batch_size)]


def equal_lengths(num_samples: int, num_tokens: int) -> list[PairLengths]:
    """All tokens but the first are trained."""
    return [PairLengths(prompt=1, completion=num_tokens - 1)] * num_samples


def code_lengths(num_samples: int, max_tokens: int) -> list[PairLengths]:
    """Lengths of real text, drawn at random: docstrings of Python's standard library and the functions they describe.

    In words and punctuation marks. Most are short, a few very long: half stay below 90 tokens, a tenth exceed 270.
    """
    found = [
        lengths
        for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        for lengths in _function_lengths(path)
        if lengths.prompt + lengths.completion <= max_tokens
    ]
    return random.Random(SEED).choices(found, k=num_samples)


def _function_lengths(path: Path) -> list[PairLengths]:
    source = path.read_text(encoding="utf-8")
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (description := ast.get_docstring(node)):
            prompt = _num_words(description)
            whole = _num_words(ast.get_source_segment(source, node) or "")
            found.append(PairLengths(prompt=max(1, prompt), completion=max(2, whole - prompt + 1)))
    return found


def _num_words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def _write_model(folder: Path, shape: ModelShape) -> None:
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
    )
    disable_progress_bar()
    Qwen3ForCausalLM(config).save_pretrained(folder)
    words = [*_SPECIAL, *(f"w{number}" for number in range(shape.vocabulary - len(_SPECIAL)))]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


def _write_pairs(path: Path, shape: ModelShape, lengths: list[PairLengths]) -> None:
    drawn = random.Random(SEED)

    def words(count: int) -> str:
        return " ".join(f"w{drawn.randrange(shape.vocabulary - len(_SPECIAL))}" for _ in range(count))

    rows = [{"prompt": words(pair.prompt), "completion": words(pair.completion - 1)} for pair in lengths]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _peer_arguments(spec: SftSpec, num_steps: int) -> dict[str, Any]:
    """transformers' `TrainingArguments` that mean the same as the specification."""
    optimizer = spec.optimizer
    assert not (optimizer.warmup_steps or optimizer.warmup_ratio), "transformers' warm-up is another"
    decay = {"num_decay_steps": math.ceil(DECAY_RATIO * num_steps), "decay_type": "linear"}
    return {
        "max_steps": num_steps,
        "per_device_train_batch_size": spec.batch_size,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": _SCHEDULES[optimizer.lr_schedule],
        "lr_scheduler_kwargs": decay if optimizer.lr_schedule == "wsd" else {},
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.adam_beta1,
        "adam_beta2": optimizer.adam_beta2,
        "adam_epsilon": optimizer.adam_epsilon,
        "max_grad_norm": optimizer.max_grad_norm,
    }


def _for_peer(sample: TokenSequence) -> dict[str, list[int]]:
    prompt, completion = list(sample.prompt_token_ids), list(sample.completion_token_ids)
    return {"input_ids": prompt + completion, "labels": [_IGNORED] * len(prompt) + completion}
