"""Loads a causal language model and its tokenizer from a Hugging Face folder, with errors that a person can act on.

The weights are held in float32 whatever the specification's dtype; bfloat16 means that the forward pass runs under
autocast and that weights leave the trainer as bfloat16. Steps of 1e-6 would vanish in bfloat16 weights.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from service.contract.spec import ModelSpec

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


class ConfigError(Exception):
    """The model, the data or a setting cannot work; another attempt would fail in the same way."""


def torch_dtype(spec: ModelSpec) -> torch.dtype:
    """The dtype of the forward pass and of exported weights."""
    return torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder. Raises ConfigError if there is none or it has no end-of-sequence token."""
    _require_folder(folder)
    # Some of transformers' classes make up an empty tokenizer where the files are missing.
    if not any((Path(folder) / name).is_file() for name in _VOCABULARY_FILES):
        raise ConfigError(
            f"{folder} holds no tokenizer (none of {', '.join(_VOCABULARY_FILES)}); "
            "save the tokenizer beside the model with its save_pretrained"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"the tokenizer in {folder} cannot be loaded: {_first_line(error)}; "
            "save it again beside the model with its save_pretrained"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer in {folder} has no end-of-sequence token, so completions could never end; "
            "set eos_token in its tokenizer_config.json"
        )
    return tokenizer


def load_model(folder: str, device: torch.device) -> PreTrainedModel:
    """The model in float32 on `device`, dropout off. Raises ConfigError if the folder holds no loadable model."""
    _require_folder(folder)
    if not (Path(folder) / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds no config.json, so it is no Hugging Face model folder; "
            "point model.path to the folder that save_pretrained wrote"
        )
    disable_progress_bar()  # Bars are of no use in a log.
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"the model in {folder} cannot be loaded: {_first_line(error)}; "
            "check that config.json and the safetensors files belong together"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise ConfigError(
            f"the model in {folder} lacks {len(missing)} weights, such as {missing[0]}, which would be random; "
            "check that config.json and the safetensors files belong together"
        )
    _require_saveable(model, folder)
    # Dropout would make the gradient depend on how a batch is split, and the log-probs of two passes differ.
    return model.to(device).eval()


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a completion: the tokenizer's, which is trained, then others of the generation config."""
    configured: Any = model.generation_config.eos_token_id if model.generation_config is not None else None
    others = configured if isinstance(configured, list) else [] if configured is None else [configured]
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *others]))


def _require_folder(folder: str) -> None:
    if not Path(folder).is_dir():
        raise ConfigError(
            f"model folder {folder} does not exist on this machine; "
            "give model.path as a folder that the service and all workers can read"
        )


def _require_saveable(model: PreTrainedModel, folder: str) -> None:
    """Find out now, not at the export after training, that the generation config would be refused."""
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:
        raise ConfigError(
            f"{folder}/generation_config.json contradicts itself: {_first_line(error)}; correct that file"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
