"""The trained weights on their way out of the run: a Hugging Face folder."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
from torch import Tensor

from workers.actors.policy_model import PolicyModel
from workers.actors.weight_export import leaving_weights
from workers.checkpoint_draft import written_aside
from workers.checkpoints import is_local
from workers.data.chat_template import tokenizer_with_template

MAX_SHARD_SIZE = "5GB"
"""Of one safetensors file of an export."""
ADAPTER_FOLDER = "adapter"
"""Within an export: the adapters alone, where there are any, in peft's format."""


def exported_weights(policy: PolicyModel) -> Iterator[tuple[str, Tensor]]:
    """Every tensor once, by name: contiguous copies on the CPU of what leaves. On other ranks than the first none."""
    leaving = leaving_weights(policy, policy.whole_state())
    for name in leaving.tensors:
        # Copied: an optimizer step must not change what a reader still holds.
        yield name, leaving.cast(name).clone()


def export_model(policy: PolicyModel, folder: str, *, max_shard_size: str = MAX_SHARD_SIZE) -> str:
    """Write model, tokenizer and generation config as a Hugging Face folder and return where it is.

    Adapters are merged into the weights, and beside that stand by themselves in the folder `adapter`. Weights beyond
    `max_shard_size` ("5GB") go into several files with an index.

    A local folder appears whole or not at all and replaces an older one; to another fsspec URL it is uploaded.
    """
    state = policy.whole_state()
    return policy.ranks.from_first(lambda: _export(policy, state, folder, max_shard_size))


def _export(policy: PolicyModel, state: dict[str, Tensor], folder: str, max_shard_size: str) -> str:
    if is_local(folder):
        _, local = fsspec.core.url_to_fs(folder)
        target = Path(local)
        with written_aside(target) as aside:
            _write_folder(policy, state, aside, max_shard_size)
        return str(target)
    filesystem, remote = fsspec.core.url_to_fs(folder)
    with tempfile.TemporaryDirectory() as scratch:
        _write_folder(policy, state, Path(scratch), max_shard_size)
        for path in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            name = path.relative_to(scratch).as_posix()
            filesystem.makedirs(f"{remote}/{name}".rpartition("/")[0], exist_ok=True)
            filesystem.put_file(str(path), f"{remote}/{name}")
    return folder


def _write_folder(policy: PolicyModel, state: dict[str, Tensor], folder: Path, max_shard_size: str) -> None:
    ends = list(policy.facts.eos_token_ids)
    generation = policy.model.generation_config
    assert generation is not None
    # The end token that was trained must be the one that stops generation.
    generation.eos_token_id = ends[0] if len(ends) == 1 else ends
    generation.pad_token_id = policy.facts.pad_token_id
    policy.model.save_pretrained(folder, state_dict=_leaving(policy, state), max_shard_size=max_shard_size)
    if policy.adapters is not None:
        policy.adapters.save(state, folder / ADAPTER_FOLDER)
    tokenizer_with_template(policy.tokenizer, policy.chats).save_pretrained(folder)
    # save_pretrained notes the dtype of the weights in memory, which is float32 in any case.
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text())
    config["dtype"] = str(policy.dtype).removeprefix("torch.")
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _leaving(policy: PolicyModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole state as it leaves the trainer: adapters merged, in the specification's dtype."""
    if policy.adapters is not None:
        state = policy.adapters.merged(state)
    return {name: tensor.to(policy.dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
