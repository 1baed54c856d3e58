"""Loads the tokenizer of a model folder, with errors that a person can act on. No torch: previews start fast."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from workers.config_error import ConfigError, first_line

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


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
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
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


def require_model_folder(folder: str) -> None:
    """Raises ConfigError if the folder is not there."""
    if not Path(folder).is_dir():
        raise ConfigError(
            f"model folder {folder} does not exist on this machine; "
            "give model.path as a folder that the service and all workers can read"
        )
