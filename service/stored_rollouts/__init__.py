"""The rollouts that an experiment keeps in its folder: listed, downloaded and asked for where they lie.

files      which steps are stored, and their files as they lie there
scan       one file: the rows that a filter lets pass
search     many files: pages in an order
export     many files: one Parquet file
"""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from service.stored_rollouts.export import export_chunks
from service.stored_rollouts.files import OpenStep, StoredStep, list_steps, open_step
from service.stored_rollouts.search import SCAN_S, FoundPage, Place, Search
from service.stored_rollouts.storage import STORAGE_S, from_storage

__all__ = [
    "FoundPage",
    "OpenStep",
    "Place",
    "Search",
    "StoredStep",
    "begin_export",
    "find_page",
    "list_steps",
    "open_step",
]


async def find_page(search: Search, limit: int) -> FoundPage:
    """Up to `limit` rows. Raises QueryTooSlow and StorageUnavailable. Hold no session."""
    return await from_storage(partial(search.page, limit), SCAN_S + STORAGE_S)


async def begin_export(search: Search, limit: int | None, about: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """A Parquet file piece by piece, its first piece already read: what is refused is refused here.

    Raises QueryTooSlow and StorageUnavailable, the iterator StorageUnavailable too. Hold no session.
    """
    chunks = export_chunks(search, limit, about)

    async def read_on() -> bytes | None:
        return await from_storage(partial(next, chunks, None), SCAN_S + STORAGE_S)

    first = await read_on()

    async def pieces() -> AsyncIterator[bytes]:
        piece = first
        while piece is not None:
            if piece:
                yield piece
            piece = await read_on()

    return pieces()
