"""Whether the kernel has killed processes for memory since the run began: on this machine, and in this container.

The container's own count (cgroup v2 `memory.events`, v1 `memory.oom_control`) speaks of the run's processes; the
kernel's (`/proc/vmstat`) of any on the machine. Neither exists everywhere; what cannot be read says nothing.
"""

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


class OomWatch:
    """Counts from its construction on."""

    def __init__(self, *, root: Path = Path("/")) -> None:
        """`root` is the machine's, but in tests."""
        self._root = root
        self._before = self._counts()

    def signs(self) -> list[dict[str, str]]:
        """What was counted since, as evidence: `kind` and `detail`."""
        kills = {kind: count - self._before.get(kind, 0) for kind, count in self._counts().items()}
        where = {"cgroup": "in the run's container", "kernel": "on the driver's machine"}
        return [
            {"kind": kind, "detail": f"the kernel killed {number} process{'' if number == 1 else 'es'} {where[kind]}"}
            for kind, number in kills.items()
            if number > 0
        ]

    def _counts(self) -> dict[str, int]:
        """Kills so far, by who counts."""
        found = {"cgroup": self._of_container(), "kernel": _field(self._root / "proc/vmstat", "oom_kill")}
        return {kind: count for kind, count in found.items() if count is not None}

    def _of_container(self) -> int | None:
        cgroups = self._root / _CGROUPS.relative_to("/")
        for line in _lines(self._root / "proc/self/cgroup"):
            number, controllers, path = line.split(":", 2)
            if number == "0":
                # Within a container's own namespace the path is `/`, and its files lie at the top.
                for folder in (cgroups / path.lstrip("/"), cgroups):
                    if (count := _field(folder / "memory.events", "oom_kill")) is not None:
                        return count
            elif "memory" in controllers.split(","):
                for folder in (cgroups / "memory" / path.lstrip("/"), cgroups / "memory"):
                    if (count := _field(folder / "memory.oom_control", "oom_kill")) is not None:
                        return count
        return None


def _field(file: Path, name: str) -> int | None:
    for line in _lines(file):
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
