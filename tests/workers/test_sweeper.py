"""Processes of ended attempts on this machine; what the sweep does through Ray is tested with a real head."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from service.contract.sweeping import ATTEMPT_VARIABLE, SweepReport
from workers.sweeper import end_processes


@contextmanager
def process_of(attempt_id: str, command: str = "exec sleep 60") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sh", "-c", command], env=os.environ | {ATTEMPT_VARIABLE: attempt_id})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_processes_of_the_attempts_named_end_and_no_others() -> None:
    with process_of("exp-sweep-a1") as over, process_of("exp-sweep-a2") as living:
        [found] = end_processes(["exp-sweep-a1"])
        assert (found.pid, found.attempt_id) == (over.pid, "exp-sweep-a1")
        assert not psutil.pid_exists(over.pid)
        assert living.poll() is None


def test_one_that_ignores_the_request_is_killed() -> None:
    with process_of("exp-sweep-a3", "trap '' TERM; while :; do sleep 0.1; done") as stubborn:
        assert end_processes(["exp-sweep-a3"], grace_s=0.3)
        assert not psutil.pid_exists(stubborn.pid)


def test_a_report_tells_of_each_attempt_its_own() -> None:
    processes = [
        {"node": "n", "pid": 4, "attempt_id": "exp-1-a1", "command": "vllm"},
        {"node": "n", "pid": 5, "attempt_id": "exp-2-a1", "command": "sleep"},
    ]
    report = SweepReport.model_validate({"processes": processes})
    assert report.describe("exp-1-a1") == "vllm (process 4 on n)"
    assert report.describe("exp-3-a1") == ""
