"""What waits to be sent, in order: the first few bodies in memory, the rest in files, nothing dropped."""

import logging
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

NUM_IN_MEMORY = 4
"""Bodies kept in memory, about 1 MB each at most; later ones wait on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One request body, sealed: it is sent again byte for byte until the service has taken it."""

    call: Literal["reports", "stage-results"]
    body: bytes


class Outbox:
    """A queue of parcels. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parcels: deque[Parcel | _Spooled] = deque()
        self._num_spooled_ever = 0

    def __len__(self) -> int:
        return len(self._parcels)

    def put(self, parcel: Parcel) -> None:
        """Append a parcel; beyond the first few it goes to disk, or stays in memory if the disk refuses."""
        if len(self._parcels) < NUM_IN_MEMORY:
            self._parcels.append(parcel)
            return
        try:
            self._parcels.append(self._spool(parcel))
        except OSError:
            logger.exception("spool not writable, report kept in memory", extra={"folder": str(self._folder)})
            self._parcels.append(parcel)

    def head(self) -> Parcel:
        """The oldest parcel, which stays until `pop`."""
        first = self._parcels[0]
        if isinstance(first, _Spooled):
            parcel = Parcel(call=first.call, body=first.path.read_bytes())
            first.path.unlink()
            self._parcels[0] = parcel
            return parcel
        return first

    def pop(self) -> None:
        """Forget the oldest parcel: the service has it."""
        self._parcels.popleft()

    def clear(self) -> None:
        """Forget all parcels and their files."""
        for parcel in self._parcels:
            if isinstance(parcel, _Spooled):
                parcel.path.unlink(missing_ok=True)
        self._parcels.clear()

    def _spool(self, parcel: Parcel) -> "_Spooled":
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._num_spooled_ever += 1
        path = self._folder / f"{self._num_spooled_ever:08d}-{parcel.call}.json"
        try:
            with path.open("wb") as file:
                file.write(parcel.body)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return _Spooled(call=parcel.call, path=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spooled:
    call: Literal["reports", "stage-results"]
    path: Path
