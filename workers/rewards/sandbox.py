"""Runs a program that nobody has read, with limits.

What is limited: wall and CPU time, memory of a process, size of a file, open files, and, where the kernel grants a user
namespace, network (none), shared memory of System V, and, unless root runs it, processes. The environment is empty, the
folder is new and vanishes, and whatever the program started is killed with it.

What is not isolated: the program reads the files that the workers' user may read and writes where that user may write.
On machines where that matters, let the workers run as a user without rights, or in a container.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from workers.rewards.process_limits import die_with_parent, limit_memory

MAX_OUTPUT_BYTES = 1024 * 1024
_MAX_FILE_BYTES = 16 * 1024 * 1024
_MAX_OPEN_FILES = 64
_MAX_PROCESSES = 32
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRun:
    """How a program ended."""

    exit_code: int | None
    """None where it took too long; negative for a signal."""
    output: str
    """What it printed, `MAX_OUTPUT_BYTES` of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLimits:
    """What a program may use."""

    timeout_s: float
    memory_mb: int


def can_isolate() -> bool:
    """Whether this machine's kernel grants a namespace without network."""
    child = os.fork()
    if child == 0:
        os._exit(0 if _leave_network() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def adopt_orphans() -> None:
    """Make this process the parent of whatever its programs leave behind, so that it can be found and killed."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run_program(program: str, stdin: str, limits: ProgramLimits, *, isolate: bool) -> ProgramRun:
    """Run Python source. For a process without threads that has called `adopt_orphans`."""
    with TemporaryDirectory(prefix="sedray-program-", ignore_cleanup_errors=True) as folder:
        source, given, output, work = (Path(folder) / name for name in ("program.py", "input", "output", "work"))
        source.write_text(program, encoding="utf-8", errors="replace")
        given.write_text(stdin, encoding="utf-8", errors="surrogatepass")
        work.mkdir()
        with output.open("wb") as out, given.open("rb") as read:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(source)],
                stdin=read,
                stdout=out,
                stderr=subprocess.DEVNULL,
                cwd=work,
                env={"PATH": os.defpath, "HOME": str(work), "TMPDIR": str(work), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
                preexec_fn=partial(_restrict, limits, isolate, os.getpid()),
            )
            try:
                exit_code: int | None = process.wait(limits.timeout_s)
            except subprocess.TimeoutExpired:
                exit_code = None
            finally:
                _kill_all(process)
        with output.open("rb") as written:
            text = written.read(MAX_OUTPUT_BYTES).decode(errors="replace")
    return ProgramRun(exit_code=exit_code, output=text)


def _restrict(limits: ProgramLimits, isolate: bool, parent: int) -> None:
    """In the new process, before Python starts anew in it."""
    if isolate and _leave_network():
        # Only within the namespace does the kernel count its processes alone, and not all that the user has.
        _limit(resource.RLIMIT_NPROC, _MAX_PROCESSES)
    limit_memory(limits.memory_mb)
    seconds = ceil(limits.timeout_s) + 1
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    die_with_parent(parent)


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _leave_network() -> bool:
    flags = _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC
    return bool(_libc.unshare(flags) == 0)


def _kill_all(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # What left the group with a session of its own has become our child by now, or is still a child's child.
    while strays := psutil.Process().children(recursive=True):
        for stray in strays:
            with suppress(psutil.NoSuchProcess):
                stray.kill()
        for stray in strays:
            with suppress(ChildProcessError):
                os.waitpid(stray.pid, 0)
