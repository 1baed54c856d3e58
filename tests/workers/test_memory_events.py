"""Counting the kernel's kills, on folders that look like a machine's."""

from pathlib import Path

import pytest

from workers.memory_events import OomWatch
from workers.reporter.line_source import source_of


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_kills_in_the_runs_own_container_and_on_the_machine_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/jobs/7\n")
    write(tmp_path, "sys/fs/cgroup/jobs/7/memory.events", "low 0\noom 1\noom_kill 1\n")
    write(tmp_path, "proc/vmstat", "nr_free_pages 5\noom_kill 3\n")
    watch = OomWatch(root=tmp_path)
    assert watch.signs() == []
    write(tmp_path, "sys/fs/cgroup/jobs/7/memory.events", "low 0\noom 3\noom_kill 3\n")
    write(tmp_path, "proc/vmstat", "nr_free_pages 5\noom_kill 4\n")
    assert watch.signs() == [
        {"kind": "cgroup", "detail": "the kernel killed 2 processes in the run's container"},
        {"kind": "kernel", "detail": "the kernel killed 1 process on the driver's machine"},
    ]


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("0::/", "memory.events"),
        ("0::/hidden/by/a/namespace", "memory.events"),
        ("5:memory:/docker/7", "memory/docker/7/memory.oom_control"),
        ("5:cpu,memory:/docker/7", "memory/memory.oom_control"),
    ],
)
def test_the_count_is_found_in_either_version_and_within_a_namespace(tmp_path: Path, cgroup: str, file: str) -> None:
    write(tmp_path, "proc/self/cgroup", f"12:cpuset:/\n{cgroup}\n")
    write(tmp_path, f"sys/fs/cgroup/{file}", "oom_kill 0\n")
    watch = OomWatch(root=tmp_path)
    write(tmp_path, f"sys/fs/cgroup/{file}", "oom_kill 1\n")
    assert [sign["kind"] for sign in watch.signs()] == ["cgroup"]


def test_a_machine_that_counts_nothing_says_nothing(tmp_path: Path) -> None:
    assert OomWatch(root=tmp_path).signs() == []


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("(Trainer pid=4711) loss 0.3", "Trainer:4711"),
        ("(RolloutEngine pid=8, ip=10.0.0.2) (EngineCore pid=9) ready", "RolloutEngine:8"),
        ("(pid=12) loading", "driver"),
        ("(autoscaler +3s) more nodes", "driver"),
        ("plain (Trainer pid=4711)", "driver"),
        ("(my actor? pid=3) x", "my-actor-:3"),
    ],
)
def test_a_line_belongs_to_whom_ray_names(line: str, source: str) -> None:
    assert source_of(line) == source
