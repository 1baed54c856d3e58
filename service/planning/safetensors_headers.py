"""Shapes of a model's tensors, from the headers of its safetensors files: no weight is read.

A file begins with the header's length (8 bytes, little-endian) and the header, a JSON object
`{name: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, "__metadata__": {...}}`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

MAX_HEADER_BYTES = 100 * 2**20
"""As the format itself demands."""


def read_tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """All tensors of the folder's safetensors files by name. Raises ValueError for a file that is none."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in _header(path).items():
            if name != "__metadata__":
                shapes[name] = tuple(entry["shape"])
    return shapes


def _header(path: Path) -> Mapping[str, dict[str, list[int]]]:
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if not 0 < num_bytes <= MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} does not begin with a safetensors header")
        header = file.read(num_bytes)
    try:
        content = json.loads(header)
        if all(
            isinstance(entry, dict) and ("shape" in entry or key == "__metadata__") for key, entry in content.items()
        ):
            return dict(content)
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{path.name} has no readable safetensors header")
