"""What was found in files that have not changed since: a sweep of a hundred submissions reads its data once.

A file is known by size, times and inode. What changed in the last seconds, lies in a store, or had a fault is looked at
anew each time.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

Found = TypeVar("Found")
Signature = tuple[tuple[str, int, int, int], ...]

_MOST = 256
_MOST_FILES = 2000
_SETTLED_S = 2.0
"""A file that changed later may change again within the resolution of its times."""


class Remembered:
    """Results of looking at files. Safe to use from several threads."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._known: OrderedDict[str, tuple[Signature, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, what: str, path: str) -> Any | None:
        """What `look` would answer without an inspection, or None. Blocks on the files' attributes alone."""
        present = self._signature(path)
        with self._lock:
            known = self._known.get(what)
        return known[1] if known is not None and present is not None and known[0] == present else None

    def look(self, what: str, path: str, inspect: Callable[[], Found], is_sound: Callable[[Found], bool]) -> Found:
        """The result of `inspect`, or that of an earlier look at the same files; `what` names the question.

        Only results that `is_sound` are kept. Blocks as `inspect` does.
        """
        before = self._signature(path)
        with self._lock:
            known = self._known.get(what)
            if known is not None and before is not None and known[0] == before:
                self._known.move_to_end(what)
                found: Found = known[1]
                return found
        result = inspect()
        if before is not None and is_sound(result) and self._signature(path) == before:
            with self._lock:
                self._known[what] = (before, result)
                while len(self._known) > _MOST:
                    self._known.popitem(last=False)
        return result

    def _signature(self, path: str) -> Signature | None:
        """None for what cannot be recognised again."""
        try:
            files = _files_below(path)
            found = tuple((file, *_facts(os.stat(file))) for file in files)
        except OSError:
            return None
        newest_s = max((mtime_ns for _, _, mtime_ns, _ in found), default=0) / 1e9
        return found if found and newest_s < self._now() - _SETTLED_S else None


def _files_below(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    files = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    if len(files) > _MOST_FILES:
        raise OSError("too many files to recognise")
    return sorted(files)


def _facts(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
