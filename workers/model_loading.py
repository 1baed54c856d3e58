"""Loads a causal language model from a Hugging Face folder, with errors that a person can act on.

Trained weights are held in float32 whatever the specification's dtype; bfloat16 means that the forward pass runs under
autocast and that weights leave the trainer as bfloat16. Steps of 1e-6 would vanish in bfloat16 weights. Only weights
that are frozen beside adapters are held in the specification's dtype.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from service.contract.spec import ModelSpec
from workers.config_error import ConfigError, first_line
from workers.tokenizer_loading import require_model_folder


def torch_dtype(spec: ModelSpec) -> torch.dtype:
    """The dtype of the forward pass and of exported weights."""
    return torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32


def load_model(folder: str, device: torch.device, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model on `device`, dropout off. Raises ConfigError if the folder holds no loadable model."""
    require_model_folder(folder)
    if not (Path(folder) / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds no config.json, so it is no Hugging Face model folder; "
            "point model.path to the folder that save_pretrained wrote"
        )
    disable_progress_bar()  # Bars are of no use in a log.
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"the model in {folder} cannot be loaded: {first_line(error)}; "
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


def _require_saveable(model: PreTrainedModel, folder: str) -> None:
    """Find out now, not at the export after training, that the generation config would be refused."""
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:
        raise ConfigError(
            f"{folder}/generation_config.json contradicts itself: {first_line(error)}; correct that file"
        ) from error
