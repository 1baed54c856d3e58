"""What a process that judges sets for itself, and for what it starts."""

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_BYTES_PER_MB = 1024 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


def limit_memory(megabytes: int) -> None:
    """Bound the address space: beyond it allocation fails, and the machine's other processes are safe."""
    size = megabytes * _BYTES_PER_MB
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends, also where `parent` was killed itself."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before it could be tied to this process.
        os.kill(os.getpid(), signal.SIGKILL)
