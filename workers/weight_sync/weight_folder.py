"""Where weight files lie, and that nothing of them is left behind.

    driver                        trainer                       rollout engines
    weight_folder(attempt) ─┐
      folder.path(version) ─┼──> writes the file ────────────> loaded by all, kept for those that join later
      folder.discard(path) <┘    before the next version is written
    end of the block: the folder and all in it are gone

Where trainer and engines share no file system, the content travels and each machine has a folder of its own: the first
engine of the machine writes the file, the others find it, and it is gone when the last of them has loaded it.

    landing_folder(attempt) ──> folder.land(name, content) ──> loaded ──> folder.release(path)
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

SHARED_MEMORY = Path("/dev/shm")

_FOLDER_PREFIX = "sedray-weights-"
_LANDING_PREFIX = "sedray-landing-"
_ABANDONED_AFTER_S = 60.0
"""Age from which an unlocked folder counts as abandoned; a younger one may be about to be locked."""


Content = bytes | memoryview
"""The bytes of a weight file in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFolder:
    """Where the weight files of one attempt lie."""

    folder: Path

    def path(self, version: int) -> str:
        """Where the weights of a policy version belong; nothing is created."""
        return str(self.folder / f"policy-{version:08d}.safetensors")

    def discard(self, path: str) -> None:
        """Free the memory of a file that nobody will load any more; one that is gone already is no error."""
        Path(path).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingFolder:
    """Where the content of weight files becomes files on one machine."""

    folder: Path

    def land(self, name: str, content: Content) -> str:
        """The path of a file with the content, until `release`.

        Several engines that land the same name at the same time share one file. Each holds a link of its own, so that
        the last to release it frees the memory. Raises OSError if it cannot be written.
        """
        shared, own = self.folder / name, self.folder / f"{name}.{uuid4().hex}"
        with self._locked():
            if not shared.exists():
                _write(shared, content)
            os.link(shared, own)
        return str(own)

    def release(self, path: str) -> None:
        """Give up a path that `land` gave."""
        own = Path(path)
        with self._locked(), suppress(FileNotFoundError):
            own.unlink()
            shared = own.with_suffix("")
            if shared.stat().st_nlink == 1:
                shared.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def weight_folder(attempt_id: str, *, root: Path | None = None) -> Iterator[WeightFolder]:
    """A folder of mode 0700 for one attempt's weight files, removed at the end whatever happens.

    It lies in shared memory, or in the temporary folder where there is none; `root` puts it elsewhere. A process that
    is killed cannot remove its folder, so each call first removes those whose owner is gone: an owner holds a lock on
    its folder, and the kernel lifts the lock when the process ends.

    Raises OSError if no folder can be made.
    """
    parent = root or _default_root()
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{attempt_id}-", dir=parent))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield WeightFolder(folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def landing_folder(name: str, *, root: Path | None = None) -> Iterator[LandingFolder]:
    """The folder of mode 0700 that all engines of this machine with the same `name` share, gone with the last of them.

    It is as safe from killed owners as `weight_folder`. Raises OSError if it cannot be made, or is another user's.
    """
    parent = root or _default_root()
    _remove_abandoned(parent)
    folder = parent / f"{_LANDING_PREFIX}{name}"
    descriptor = _hold(folder)
    try:
        yield LandingFolder(folder=folder)
    finally:
        os.close(descriptor)
        with suppress(OSError):  # others are at it
            _remove_if_unlocked(folder)


def _write(path: Path, content: Content) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
    part.replace(path)


def _hold(folder: Path) -> int:
    """Make the folder if need be, and keep others from removing it for as long as the descriptor is open."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        if os.fstat(descriptor).st_uid != os.getuid():
            os.close(descriptor)
            raise PermissionError(f"{folder} belongs to another user; remove it, or start the attempt again")
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if folder.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # removed by the last of its users before the lock was there


def _default_root() -> Path:
    usable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
    return SHARED_MEMORY if usable else Path(tempfile.gettempdir())


def _remove_abandoned(parent: Path) -> None:
    for prefix in (_FOLDER_PREFIX, _LANDING_PREFIX):
        for folder in parent.glob(f"{prefix}*"):
            with suppress(OSError):  # another user's, or another process was faster
                if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_S:
                    _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    """Raises OSError (BlockingIOError) if the folder's owner lives."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
