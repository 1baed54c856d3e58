"""How a weight file is laid out: the safetensors format, so that vLLM reads it without a copy.

    8 bytes   length of the header, little-endian
    header    {"model.norm.weight": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}, ...}, padded with blanks
    tensors   end to end, the widest dtypes first, so that each begins where its dtype may begin

Made here and not by the safetensors package because that one writes tensors from memory of its own: a whole copy more.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.weight_sync.failure import WeightSyncFailed

Shape = tuple[int, ...]

_MAX_HEADER_BYTES = 100_000_000
"""What the format allows a header to take."""
_SHOWN = 5
_DTYPES: Mapping[str, tuple[str, int]] = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
"""By torch's name: the format's name, and bytes of an element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """Where a tensor's bytes lie in the file."""

    dtype: str
    """As torch calls it, without `torch.`."""
    shape: Shape
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLayout:
    """A whole file before it is filled."""

    header: bytes
    """With its length in front."""
    places: Mapping[str, TensorPlace]
    """By name, in the order of the bytes."""
    num_bytes: int
    """Of the file."""


def lay_out(tensors: Mapping[str, tuple[str, Shape]]) -> WeightLayout:
    """The file for tensors of the given dtypes and shapes; the widest come first, else their order stays.

    Raises ValueError for a dtype that the format does not know.
    """
    unknown = sorted({dtype for dtype, _ in tensors.values()} - _DTYPES.keys())
    if unknown:
        raise ValueError(f"a weight file holds no tensors of {', '.join(unknown)}")
    entries, starts, end = dict[str, object](), dict[str, int](), 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: -_DTYPES[item[1][0]][1]):
        known_as, width = _DTYPES[dtype]
        starts[name], end = end, end + math.prod(shape) * width
        entries[name] = {"dtype": known_as, "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps({"__metadata__": {"format": "pt"}} | entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    places = {
        name: TensorPlace(dtype=tensors[name][0], shape=tensors[name][1], start=first + start)
        for name, start in starts.items()
    }
    return WeightLayout(header=len(text).to_bytes(8, "little") + text, places=places, num_bytes=first + end)


def tensor_shapes(path: Path) -> dict[str, Shape]:
    """Names and shapes of a safetensors file, read from its header alone.

    Raises OSError or ValueError for anything that is no such file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise ValueError(f"{path} is no safetensors file: its header would take {length} bytes")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file: its header is no JSON object")
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def require_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Make sure that what comes is exactly what the model is made of.

    vLLM passes over names that it doesn't know and keeps the old tensors of layers that received nothing; so names and
    shapes are compared before an engine is touched. Raises WeightSyncFailed with what differs.
    """
    if found != expected:
        raise WeightSyncFailed(f"the trainer's weights do not fit the engine's model: {_difference(found, expected)}")


def _difference(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str:
    unknown = sorted(found.keys() - expected.keys())
    missing = sorted(expected.keys() - found.keys())
    misshapen = [
        f"{name} has shape {found[name]}, not {expected[name]}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    parts = [
        f"unknown to the model: {_some(unknown)}" if unknown else "",
        f"missing: {_some(missing)}" if missing else "",
        _some(misshapen),
    ]
    return "; ".join(part for part in parts if part)


def _some(words: list[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
