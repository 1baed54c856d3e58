"""Tensors in a checkpoint, through torch.distributed.checkpoint: what any number of ranks wrote, any number can read.

    tensors-00000.bin ...   one file of each rank: the bytes of its parts of tensors, end to end
    tensors.json            {"model.norm.weight": {"dtype": "float32", "size": [16], "chunks": [
                                {"offsets": [0], "sizes": [8], "file": "tensors-00000.bin", "start": 4096}, ...]}, ...}

torch plans who writes and reads which part of a sharded tensor. Its own file format pickles; this one holds numbers
and names only, so that reading a checkpoint can run no code.
"""

import json
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from workers.actors.rank_group import RankGroup
from workers.checkpoint_draft import CheckpointDraft
from workers.checkpoints import Checkpoint, FileEntry

INDEX = "tensors.json"


def save_tensors(tensors: dict[str, Tensor], draft: CheckpointDraft, ranks: RankGroup) -> dict[str, FileEntry]:
    """Write all tensors, each rank its own parts; returns the files of all ranks. All ranks call it.

    Sharded tensors (DTensor) are known to all ranks by the same name. A plain tensor that several ranks name is the
    same on all of them and written once. Raises OSError on every rank if one cannot write.
    """
    writer = _Writer(draft, ranks)
    with _own_errors():
        save(cast(dict[str, Any], tensors), storage_writer=writer, no_dist=ranks.is_alone)
    return {name: entry for files in ranks.gather(writer.files) for name, entry in files.items()}


def load_tensors(tensors: dict[str, Tensor], checkpoint: Checkpoint, ranks: RankGroup) -> None:
    """Overwrite the tensors with those of the same names in a checkpoint. All ranks call it.

    Plain tensors may differ between ranks. Raises RuntimeError (a tensor is missing) or ValueError (it has another
    shape) on every rank if one finds it so.
    """
    with _own_errors():
        load(cast(dict[str, Any], tensors), storage_reader=_Reader(checkpoint), no_dist=ranks.is_alone)


def tensor_names(checkpoint: Checkpoint) -> set[str]:
    """The names of all tensors in a checkpoint."""
    return set(_index(checkpoint))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the bytes of a part of a tensor lie."""

    file: str
    start: int


class _Writer(StorageWriter):
    """Writes one file, and on rank 0 the index too."""

    def __init__(self, draft: CheckpointDraft, ranks: RankGroup) -> None:
        self._draft = draft
        self._file_name = f"tensors-{ranks.rank:05d}.bin"
        self.files: dict[str, FileEntry] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept from one checkpoint to the next."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The draft stands already."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Takes the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Takes the plans as they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's parts end to end."""
        results: list[WriteResult] = []

        def write(stream: BinaryIO) -> None:
            start = 0
            for item in plan.items:
                num_bytes = _write_item(stream, item, planner)
                place = _Place(file=self._file_name, start=start)
                results.append(WriteResult(index=item.index, size_in_bytes=num_bytes, storage_data=place))
                start += num_bytes

        self.files[self._file_name] = self._draft.write(self._file_name, write)
        return _done(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index, on rank 0."""
        places = {result.index: result.storage_data for part in results for result in part}
        index = {name: _described(name, entry, places) for name, entry in metadata.state_dict_metadata.items()}
        self.files[INDEX] = self._draft.write(INDEX, json.dumps(index).encode())

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Drafts are given, never guessed from a path."""
        return False


class _Reader(StorageReader):
    """Reads the parts that this rank needs, each file from its beginning to its end."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._places: dict[MetadataIndex, tuple[_Place, TensorStorageMetadata, ChunkStorageMetadata]] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept from one checkpoint to the next."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index in torch's words."""
        entries: dict[str, TensorStorageMetadata] = {}
        for name, stored in _index(self._checkpoint).items():
            chunks = [ChunkStorageMetadata(torch.Size(c["offsets"]), torch.Size(c["sizes"])) for c in stored["chunks"]]
            properties = TensorProperties(dtype=getattr(torch, stored["dtype"]))
            entry = TensorStorageMetadata(properties, torch.Size(stored["size"]), chunks)
            entries[name] = entry
            for chunk, where in zip(chunks, stored["chunks"], strict=True):
                place = _Place(file=where["file"], start=where["start"])
                self._places[MetadataIndex(name, chunk.offsets)] = (place, entry, chunk)
        return Metadata(state_dict_metadata=dict(entries))

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The places are known already."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Takes the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Takes the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what is wanted into the tensors."""
        wanted: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            wanted[self._places[item.storage_index][0].file].append(item)
        for file_name, items in wanted.items():
            with self._checkpoint.open(file_name) as stream:
                for item in sorted(items, key=lambda item: self._places[item.storage_index][0].start):
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(self._read(stream, item))
                    planner.commit_tensor(item, target)
        return _done(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Checkpoints are given, never guessed from a path."""
        return False

    def _read(self, stream: BinaryIO, item: ReadItem) -> Tensor:
        place, entry, chunk = self._places[item.storage_index]
        whole = torch.empty(chunk.sizes, dtype=entry.properties.dtype)
        stream.seek(place.start)
        content = stream.read(math.prod(chunk.sizes) * whole.element_size())
        if content:
            whole = torch.frombuffer(bytearray(content), dtype=whole.dtype).reshape(chunk.sizes)
        for dim, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
            whole = whole.narrow(dim, offset, length)
        return whole


def _write_item(stream: BinaryIO, item: WriteItem, planner: SavePlanner) -> int:
    assert item.type != WriteItemType.BYTE_IO, f"{item.index.fqn} is no tensor"
    tensor = cast(Tensor, planner.resolve_data(item)).detach().cpu().contiguous()
    # As bytes, because numpy does not know bfloat16.
    content = tensor.reshape(-1).view(torch.uint8).numpy().data
    stream.write(content)
    return content.nbytes


def _described(name: str, entry: Any, places: dict[MetadataIndex, _Place]) -> dict[str, Any]:
    assert isinstance(entry, TensorStorageMetadata), f"{name} is no tensor"
    chunks = []
    for chunk in entry.chunks:
        place = places[MetadataIndex(name, chunk.offsets)]
        chunks.append(
            {"offsets": list(chunk.offsets), "sizes": list(chunk.sizes), "file": place.file, "start": place.start}
        )
    dtype = str(entry.properties.dtype).removeprefix("torch.")
    return {"dtype": dtype, "size": list(entry.size), "chunks": chunks}


def _index(checkpoint: Checkpoint) -> dict[str, Any]:
    with checkpoint.open(INDEX) as stream:
        index: dict[str, Any] = json.load(stream)
    return index


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raises what went wrong on the first rank that failed; torch wraps it in an exception that ends a process."""
    try:
        with warnings.catch_warnings():
            # That a single rank needs no process group is as it should be.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as wrapped:
        rank, (error, _) = min(wrapped.failures.items())
        error.add_note(f"on rank {rank} of the trainer")
        raise error from wrapped
