"""The trained weights on their way to the rollout engines: as one file, or as its content.

    whole state ──> leaving: names and form of the checkpoint ──> cast, and copied once, to where engines read them
    (gathered from all ranks)    (adapters merged)                  (hashed before, where asked)

The file appears under its name only when it is complete.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from workers.actors.policy_model import PolicyModel
from workers.actors.tensor_digest import tensor_bytes, tensor_digest
from workers.weight_sync import WeightLayout, WeightManifest, lay_out

Content = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Weights as they leave the trainer, before they are cast."""

    tensors: Mapping[str, Tensor]
    """By name in the checkpoint; the trainer's own memory where nothing had to be merged or gathered."""
    dtypes: Mapping[str, torch.dtype]
    """Of the same names: what each is cast to."""

    def cast(self, name: str) -> Tensor:
        """One tensor as it leaves: contiguous, on the CPU; the trainer's own memory where that is so already."""
        return self.tensors[name].to(device="cpu", dtype=self.dtypes[name]).contiguous()


def leaving_weights(policy: PolicyModel, state: Mapping[str, Tensor]) -> Leaving:
    """A whole state under the names and in the form of the Hugging Face checkpoint, every tensor once.

    Adapters are merged. Floats get the specification's dtype, integer buffers keep theirs. Tied weights come once,
    under the name that a saved model uses.
    """
    merged = dict(state) if policy.adapters is None else policy.adapters.merged(state)
    tensors = dict(revert_weight_conversion(policy.model, merged))
    dtypes = {name: policy.dtype if tensor.is_floating_point() else tensor.dtype for name, tensor in tensors.items()}
    return Leaving(tensors=tensors, dtypes=dtypes)


def write_weights(policy: PolicyModel, path: str, *, with_digests: bool = False) -> WeightManifest:
    """Write all weights as one file. All ranks call it and get the same; raises OSError on all of them."""
    began = time.monotonic()
    leaving = leaving_weights(policy, policy.whole_state())
    gather_s = time.monotonic() - began
    return policy.ranks.from_first(lambda: _write_file(leaving, path, with_digests, gather_s))


def weight_content(policy: PolicyModel, *, with_digests: bool = False) -> tuple[WeightManifest, Content]:
    """What the file would hold. All ranks call it; the content is empty on all but the first."""
    began = time.monotonic()
    leaving = leaving_weights(policy, policy.whole_state())
    gather_s = time.monotonic() - began
    memory = _Memory(_layout(leaving).num_bytes if policy.ranks.is_first else 0)
    manifest = policy.ranks.from_first(lambda: _send(leaving, memory.write, with_digests, gather_s))
    return manifest, memory.content


class _Memory:
    """As much memory as is needed, filled from its beginning."""

    def __init__(self, num_bytes: int) -> None:
        self.content: Content = np.empty(num_bytes, dtype=np.uint8)
        self._filled = 0

    def write(self, content: bytes | memoryview) -> int:
        part = self.content[self._filled : self._filled + len(content)]
        part[:] = np.frombuffer(content, dtype=np.uint8)
        self._filled += len(content)
        return len(content)


def _layout(leaving: Leaving) -> WeightLayout:
    shapes = {name: tuple(tensor.shape) for name, tensor in leaving.tensors.items()}
    return lay_out({name: (str(leaving.dtypes[name]).removeprefix("torch."), shapes[name]) for name in shapes})


def _write_file(leaving: Leaving, path: str, with_digests: bool, gather_s: float) -> WeightManifest:
    part = Path(f"{path}.part")
    try:
        # Unbuffered: each tensor goes from its own memory into the file's, and into no other between.
        with part.open("wb", buffering=0) as file:
            manifest = _send(leaving, file.write, with_digests, gather_s)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    return manifest


def _send(
    leaving: Leaving, write: Callable[[bytes | memoryview], int], with_digests: bool, gather_s: float
) -> WeightManifest:
    """Hand over header and tensors one after the other; `write` may take a part only and says how much."""
    began, layout = time.monotonic(), _layout(leaving)
    _write_all(layout.header, write)
    digests = {}
    for name in layout.places:
        tensor = leaving.cast(name)
        if with_digests:
            # Of the tensor and not of what was written: otherwise a fault in writing would go unnoticed.
            digests[name] = tensor_digest(tensor)
        _write_all(tensor_bytes(tensor), write)
    return WeightManifest(
        num_tensors=len(layout.places),
        num_bytes=layout.num_bytes,
        digests=digests if with_digests else None,
        gather_s=gather_s,
        write_s=time.monotonic() - began,
    )


def _write_all(content: bytes | memoryview, write: Callable[[bytes | memoryview], int]) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[write(rest) :]
