"""Loads the tokenizer of a model folder, with errors that a person can act on. No torch: previews start fast."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from workers.config_error import ConfigError, first_line

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Names under which transformers saves a tokenizer that is no more than its tokenizer.json."""


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder. Raises ConfigError if there is none or it has no end-of-sequence token."""
    require_model_folder(folder)
    # Some of transformers' classes make up an empty tokenizer where the files are missing.
    if not any((Path(folder) / name).is_file() for name in _VOCABULARY_FILES):
        raise ConfigError(
            f"{folder} holds no tokenizer (none of {', '.join(_VOCABULARY_FILES)}); "
            "save the tokenizer beside the model with its save_pretrained"
        )
    try:
        # Not left out: transformers would ask on the terminal whether to run the folder's own code.
        tokenizer = _loader(folder).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"the tokenizer in {folder} cannot be loaded: {first_line(error)}; "
            "save it again beside the model with its save_pretrained"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer in {folder} has no end-of-sequence token, so completions could never end; "
            "set eos_token in its tokenizer_config.json"
        )
    return tokenizer


def _loader(folder: str) -> Any:
    """The class that reads the folder's tokenizer.

    For some model types (Qwen2 is one) AutoTokenizer puts its own class in the place of a tokenizer that calls itself
    nothing but a tokenizer.json, and then splits text by other rules than that file's.
    """
    config = Path(folder) / "tokenizer_config.json"
    name = json.loads(config.read_text()).get("tokenizer_class") if config.is_file() else None
    is_plain = name in _PLAIN_CLASSES and (Path(folder) / "tokenizer.json").is_file()
    return PreTrainedTokenizerFast if is_plain else AutoTokenizer


def require_model_folder(folder: str) -> None:
    """Raises ConfigError if the folder is not there."""
    if not Path(folder).is_dir():
        raise ConfigError(
            f"model folder {folder} does not exist on this machine; "
            "give model.path as a folder that the service and all workers can read"
        )
