"""Processes that must not outlive us: who they are, how to end them, what the kernel does when we are killed.

Linux only (prctl(2)): a *subreaper* becomes the parent of every descendant whose own parent has died, also of those in
sessions of their own, so that "my descendants" stays complete whatever they do.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Collection

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process. Raises OSError where the kernel refuses."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """For `Popen(preexec_fn=…)`: the kernel sends `number` to the child when this process dies, however it dies."""
    parent = os.getpid()

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # died between fork and prctl
            os.kill(os.getpid(), number)

    return arrange


def orphans(supervised: Collection[int]) -> list[psutil.Process]:
    """Children that nobody here started, with all their descendants: what a dead service has left behind."""
    adopted = [child for child in psutil.Process().children() if child.pid not in supervised]
    return [process for child in adopted for process in _with_descendants(child)]


def descendants() -> list[psutil.Process]:
    """Every living or unreaped process below this one."""
    return psutil.Process().children(recursive=True)


def end(find: Callable[[], list[psutil.Process]], *, grace_s: float, kill_s: float = 5.0) -> list[int]:
    """Sends SIGTERM to what `find` finds, SIGKILL after `grace_s`, until it finds nothing; reaps what is ours.

    Returns the process ids that are still there after further `kill_s` seconds (normally none).
    """
    _signal_all(found := find(), signal.SIGTERM)
    psutil.wait_procs(found, timeout=grace_s)
    rounds = 10
    for _ in range(rounds):
        if not (found := find()):
            return []
        _signal_all(found, signal.SIGKILL)
        psutil.wait_procs(found, timeout=kill_s / rounds)
    return [process.pid for process in find()]


def reap_adopted(supervised: Collection[int]) -> None:
    """Collects dead adopted children, and leaves the exit codes of supervised ones to their owner."""
    while (pid := _dead_child()) is not None and pid not in supervised:
        os.waitpid(pid, 0)


def _dead_child() -> int | None:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def leftovers(marker: tuple[str, str], fragment: str) -> list[psutil.Process]:
    """Processes of an earlier, killed stack: by an environment variable, or by a path on their command line.

    Neither alone is enough: processes that set their own title overwrite their environment, others name no path.
    Descendants of those found are found too.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = [
        process for process in psutil.process_iter() if process.pid not in own and _is_of(process, marker, fragment)
    ]
    every = {process.pid: process for one in found for process in _with_descendants(one)}
    return list(every.values())


def _is_of(process: psutil.Process, marker: tuple[str, str], fragment: str) -> bool:
    try:
        return process.environ().get(marker[0]) == marker[1] or any(fragment in part for part in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def _with_descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
