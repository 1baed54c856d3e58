"""Builds a two-layer Qwen3 with random weights and a word tokenizer: real files of a real model, in milliseconds."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from service.contract.data import PromptData, SupervisedData
from service.contract.rewards import ExactMatchReward
from service.contract.spec import ModelSpec
from service.contract.stages import OptimizerSpec, RlSpec, SftSpec
from workers.actors.trainer import Trainer
from workers.rollouts import TrainingSample

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(20))]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token: `w0 w1 ... w19`."""
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def make_model_folder(folder: Path, *, tied: bool = True, seed: int = 0) -> Path:
    """A saved model with its tokenizer."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        eos_token_id=1,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_trainer(model_folder: Path, *, dtype: Any = "float32", seed: int = 0, **changes: Any) -> Trainer:
    """A loaded trainer on one thread."""
    model = ModelSpec(path=str(model_folder), dtype=dtype, max_model_len=32, **changes)
    trainer = Trainer(model=model, seed=seed, num_cpus=1, num_gpus=0)
    trainer.load()
    return trainer


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    """JSON lines; returns the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_pairs(num_pairs: int) -> list[dict[str, str]]:
    """Prompts and completions of different lengths."""
    return [
        {
            "prompt": " ".join(f"w{(index + offset) % 20}" for offset in range(2 + index % 3)),
            "completion": " ".join(f"w{(7 * index + offset) % 20}" for offset in range(1 + index % 4)),
        }
        for index in range(num_pairs)
    ]


def make_sft_spec(data: str, **changes: Any) -> SftSpec:
    """Ten samples would be three steps an epoch, nine in all."""
    settings: dict[str, Any] = {
        "optimizer": OptimizerSpec(learning_rate=1e-2, lr_schedule="cosine", warmup_ratio=0.2, weight_decay=0.01),
        "num_epochs": 3,
        "batch_size": 4,
        "max_length": 32,
        "save_steps": 1000,
    }
    return SftSpec(data=SupervisedData(path=data), **(settings | changes))


def make_rl_spec(**changes: Any) -> RlSpec:
    """Three prompts of four completions a step."""
    settings: dict[str, Any] = {
        "optimizer": OptimizerSpec(learning_rate=1e-2),
        "num_steps": 4,
        "num_prompts_per_step": 3,
        "num_generations": 4,
        "max_completion_length": 6,
    }
    data = PromptData(path="prompts come from the caller")
    return RlSpec(data=data, reward=ExactMatchReward(), **(settings | changes))


def make_samples(step: int, *, num_samples: int = 12, advantage: float | None = None) -> list[TrainingSample]:
    """Synthetic rollouts of different lengths that depend on the step alone."""
    generator = torch.Generator().manual_seed(step)
    samples = []
    for index in range(num_samples):
        length = 1 + (index + step) % 5
        drawn = float(torch.randn((), generator=generator))
        samples.append(
            TrainingSample(
                prompt_token_ids=(3, 4, 5 + index // 4),
                completion_token_ids=tuple(torch.randint(3, 23, (length,), generator=generator).tolist()),
                rollout_logprobs=(-3.0,) * length,
                advantage=drawn if advantage is None else advantage,
            )
        )
    return samples


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All weights, copied."""
    return dict(trainer.weights())


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
