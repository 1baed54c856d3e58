import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from workers.activity import record
from workers.activity.inspection import inspect_machine

PROGRAM = """
import sys, time
from workers.activity import record
from pathlib import Path
record.folder = lambda: Path(sys.argv[1])
with record.ActivityFile("a1", "trainer-0").doing("rl_step", "step 7"):
    print("ready", flush=True)
    def stuck_here():
        time.sleep(600)
    stuck_here()
"""


@pytest.fixture
def hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setattr(record, "folder", lambda: tmp_path)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_hung_process_is_found_with_its_work_and_its_stacks(hung: subprocess.Popen[str]) -> None:
    (state,) = inspect_machine("a1")
    assert [(work.method, work.subject) for work in state.activity.work] == [("rl_step", "step 7")]
    assert state.processes[0].pid == hung.pid and not state.is_stopped
    assert "stuck_here" in state.processes[0].stacks or state.processes[0].stacks.startswith("no stacks: ")


def test_a_stopped_process_is_known_as_such(hung: subprocess.Popen[str]) -> None:
    os.kill(hung.pid, signal.SIGSTOP)
    while psutil.Process(hung.pid).status() != psutil.STATUS_STOPPED:
        pass
    (state,) = inspect_machine("a1")
    assert state.is_stopped


def test_a_process_that_is_gone_has_no_state(hung: subprocess.Popen[str]) -> None:
    hung.kill()
    hung.wait(10.0)
    (state,) = inspect_machine("a1")
    assert state.processes == ()
