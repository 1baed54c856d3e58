"""Reads of the experiments' outputs: in threads of their own, so that a storage that hangs holds up nothing else."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import StorageUnavailable

STORAGE_S = 20.0
"""For an answer of the storage."""
_MAX_READS = 4
_threads = ThreadPoolExecutor(max_workers=_MAX_READS, thread_name_prefix="stored-rollouts")
Found = TypeVar("Found")


async def from_storage(read: Callable[[], Found], within_s: float = STORAGE_S) -> Found:
    """What `read` gives; at most four run at a time. Raises StorageUnavailable if it cannot, or not in time."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(_threads, read), within_s)
    except (OSError, TimeoutError, ImportError, ValueError) as error:
        why = f"no answer within {within_s:.0f} s" if isinstance(error, TimeoutError) else str(error)
        raise StorageUnavailable(
            f"the storage of the experiments' outputs cannot be read by the service: {why}; try again, or read the "
            "files there"
        ) from error
