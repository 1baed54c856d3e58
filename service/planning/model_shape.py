"""The sizes of a model that its memory follows from: from its config, and exactly from the headers of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

_OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "num_layers"),
    "num_attention_heads": ("n_head",),
    "intermediate_size": ("n_inner", "ffn_dim"),
}
"""Of older models."""
_EMBEDDINGS = ("embed", "wte", "wpe")
_OUTPUT = ("lm_head", "embed_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A causal language model of equal layers."""

    num_parameters: int
    """Tied ones once."""
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    """Width of the feed-forward part that a token passes: of all its experts together."""
    is_tied: bool
    """Whether the output layer is the embeddings."""
    normalises_heads: bool
    """Whether queries and keys have norms of their own (Qwen3, Gemma 3)."""
    caps_scores: bool
    """Whether attention scores are capped softly, so that they are written out (Gemma 2)."""
    linear_layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """(out, in) of each linear layer of the body, by its full name."""

    @property
    def query_size(self) -> int:
        """Width of all queries together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all keys together, and of all values."""
        return self.num_kv_heads * self.head_dim

    @property
    def num_embedding_parameters(self) -> int:
        """Embeddings and output layer."""
        return (1 if self.is_tied else 2) * self.vocab_size * self.hidden_size

    @property
    def num_layer_parameters(self) -> int:
        """One layer."""
        return max(0, self.num_parameters - self.num_embedding_parameters) // self.num_layers


def model_shape(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> ModelShape | None:
    """The shape by a config, `text_config` already merged into it, and the tensors' shapes by name.

    Without tensors the number of parameters is that of a Llama of these sizes. None if the config does not tell the
    sizes.
    """
    hidden_size = _size(config, "hidden_size")
    num_layers = _size(config, "num_hidden_layers")
    num_heads = _size(config, "num_attention_heads")
    vocab_size = _size(config, "vocab_size")
    if not (hidden_size and num_layers and num_heads and vocab_size):
        return None
    num_kv_heads = _size(config, "num_key_value_heads") or num_heads
    head_dim = _size(config, "head_dim") or hidden_size // num_heads
    intermediate_size = _intermediate_size(config) or 4 * hidden_size
    is_tied = _is_tied(config, tensors)
    body = (num_heads * head_dim * 2 + num_kv_heads * head_dim * 2 + 3 * intermediate_size + 2) * hidden_size
    computed = num_layers * body + (1 if is_tied else 2) * vocab_size * hidden_size + hidden_size
    return ModelShape(
        num_parameters=_num_parameters(tensors, is_tied) or computed,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        is_tied=is_tied,
        normalises_heads=any("q_norm" in name for name in tensors),
        caps_scores=bool(config.get("attn_logit_softcapping")),
        linear_layers=_linear_layers(tensors),
    )


def _is_tied(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> bool:
    """A config leaves the setting out where it is its class's default; then the files tell."""
    if tensors and not any(_is_output(name) for name in tensors):
        return True
    return config.get("tie_word_embeddings") is True


def _num_parameters(tensors: Mapping[str, tuple[int, ...]], is_tied: bool) -> int:
    """Some files hold a tied output layer as well."""
    return sum(prod(shape) for name, shape in tensors.items() if not (is_tied and _is_output(name)))


def _linear_layers(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    layers = {}
    for name, shape in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2 and not _is_output(name) and not _is_embedding(module):
            layers[module] = (shape[0], shape[1])
    return layers


def _is_output(name: str) -> bool:
    return name.split(".")[0] in _OUTPUT or ".lm_head." in name


def _is_embedding(module: str) -> bool:
    return any(word in module.rpartition(".")[2] for word in _EMBEDDINGS)


def _intermediate_size(config: Mapping[str, Any]) -> int | None:
    expert, num_experts = _size(config, "moe_intermediate_size"), _size(config, "num_experts_per_tok")
    if expert and num_experts:
        return expert * num_experts + (_size(config, "shared_expert_intermediate_size") or 0)
    return _size(config, "intermediate_size")


def _size(config: Mapping[str, Any], name: str) -> int | None:
    for known in (name, *_OTHER_NAMES.get(name, ())):
        value = config.get(known)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
