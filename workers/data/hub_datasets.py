"""Rows of Hugging Face datasets: a folder that `save_to_disk` wrote, a dataset repository's folder, or a hub name.

Rows are streamed: nothing is converted into a cache of its own first, and only what is read is fetched.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import fsspec

from service.contract.data import DataSource
from workers.config_error import ConfigError, first_line

_SAVED_DATASET = "state.json"
_SAVED_SPLITS = "dataset_dict.json"


def dataset_rows(source: DataSource) -> Iterator[dict[str, Any]]:
    """Every row of the split, as plain values.

    Raises ConfigError if there is no such dataset, configuration or split. FileNotFoundError and OSError come through.
    """
    rows = _saved(source) if _is_saved(source) else _streamed(source)
    yield from rows


def streaming_arguments(source: DataSource) -> dict[str, Any]:
    """What `datasets.load_dataset` is asked for. The revision pins a hub dataset; a folder has none."""
    arguments = {"path": source.path, "split": source.split or "train", "streaming": True}
    return arguments | {
        key: value for key, value in (("name", source.config), ("revision", source.revision)) if value is not None
    }


def _is_saved(source: DataSource) -> bool:
    if source.is_on_hub:
        return False
    filesystem, folder = fsspec.core.url_to_fs(source.path)
    if not filesystem.isdir(folder):
        raise ConfigError(
            f"dataset folder {source.path} does not exist for this worker; give a folder that all machines can read, "
            "or a hub dataset as owner/name with its revision"
        )
    return any(filesystem.exists(f"{folder.rstrip('/')}/{name}") for name in (_SAVED_DATASET, _SAVED_SPLITS))


def _saved(source: DataSource) -> Iterator[dict[str, Any]]:
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(source.path)
    if not isinstance(saved, DatasetDict):
        if source.split is not None:
            raise ConfigError(f"{source.path} is one dataset without splits; leave data.split out")
        return iter(saved)
    return iter(saved[_split(source, saved)])


def _streamed(source: DataSource) -> Iterator[dict[str, Any]]:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()  # Bars are of no use in a log.
    try:
        return iter(load_dataset(**streaming_arguments(source)))
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"dataset {source.path} cannot be loaded: {first_line(error)}; check path, revision, config and split, and "
            "that this machine reaches the hub if it lies there"
        ) from error


def _split(source: DataSource, splits: Mapping[str, object]) -> str:
    wanted = source.split or "train"
    if wanted not in splits:
        raise ConfigError(f"{source.path} has no split {wanted!r}; set data.split to one of {', '.join(splits)}")
    return wanted
