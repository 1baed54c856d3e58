"""Tiny models of the classes that people train, built from their configs, in folders like the published ones."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tests.workers.tiny_model import WORDS, make_tokenizer

WINDOW = 4
"""Of the sliding layers; the tests' sequences are longer."""
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
LAYER_TYPES = ["sliding_attention", "full_attention"]
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 windowed": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, layer_types=LAYER_TYPES),
    "qwen3": Qwen3Config(**(SIZES | {"vocab_size": 40})),  # rows that the tokenizer never uses
    "gemma2": Gemma2Config(
        **SIZES,
        sliding_window=WINDOW,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=1.0,
        final_logit_softcapping=2.0,
    ),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=LAYER_TYPES),
}


def make_model(name: str) -> PreTrainedModel:
    """A model in float32 whose weights are large enough for every part of it to matter."""
    return _make_model_of(CONFIGS[name])


def make_folder(name: str, folder: Path) -> Path:
    """The same with its tokenizer."""
    return make_folder_of(CONFIGS[name], folder)


def make_folder_of(config: PreTrainedConfig, folder: Path) -> Path:
    """The same for another config."""
    _make_model_of(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def _make_model_of(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model
