"""What a search finds as one Parquet file, written while it is sent: nothing is kept on disk, and little in memory.

A Parquet file ends with its table of contents. So one that breaks off half way cannot be read by mistake.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.stored_rollouts.search import Search

EXPORT_S = 1800.0
_REPEATING = ["prompt", "answer", "finish_reason"]
_ROWS_PER_GROUP = 1024
_BYTES_PER_GROUP = 32 << 20


def export_chunks(search: Search, limit: int | None, about: Mapping[str, Any]) -> Iterator[bytes]:
    """The file piece by piece, an empty one wherever something was looked through in vain.

    `about` becomes its metadata. Up to `limit` rows, all if None, which only the order of steps allows. Blocks; raises
    TimeoutError after half an hour, and what the search raises.
    """
    deadline = time.monotonic() + EXPORT_S
    sink = _Sink()
    schema = search.schema.with_metadata({b"sedray": json.dumps(dict(about)).encode()})
    # Dictionaries are for what repeats: of values that are all different they are slow and large.
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=_REPEATING) as writer:
        held: list[Any] = []
        for table in _tables(search, limit):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"an export may take {EXPORT_S:.0f} s; ask for fewer steps")
            held.append(table)
            if _is_enough(held):
                _write(writer, held, schema)
                held = []
            yield sink.take()
        if held:
            _write(writer, held, schema)
    yield sink.take()


def _tables(search: Search, limit: int | None) -> Iterator[Any]:
    if limit is not None and search.order.lstrip("-") != "step":
        yield search.page(limit, max_bytes=None).table
        return
    left = limit
    for table in search.tables():
        yield table if left is None else table.slice(0, left)
        if left is not None:
            left -= min(left, table.num_rows)
            if not left:
                return


def _is_enough(held: list[Any]) -> bool:
    """Small tables are put together, so that the file does not fall into small pieces."""
    num_rows: int = sum(table.num_rows for table in held)
    num_bytes: int = sum(table.nbytes for table in held)
    return num_rows >= _ROWS_PER_GROUP or num_bytes >= _BYTES_PER_GROUP


def _write(writer: Any, held: list[Any], schema: Any) -> None:
    writer.write_table(pa.concat_tables(held).replace_schema_metadata(schema.metadata))


class _Sink:
    """What a writer has written and nobody has taken yet."""

    closed = False

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._position = 0

    def write(self, data: Any) -> int:
        """Keep it."""
        chunk = bytes(data)
        self._chunks.append(chunk)
        self._position += len(chunk)
        return len(chunk)

    def tell(self) -> int:
        """Bytes written since the beginning."""
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to close."""

    def take(self) -> bytes:
        """All that was written since the last call."""
        chunk, self._chunks = b"".join(self._chunks), []
        return chunk
