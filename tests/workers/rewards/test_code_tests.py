"""Programs are judged by their tests, within limits, and leave nothing behind."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from service.contract.rewards import CodeTestsReward
from tests.workers.rewards.samples import make_sample
from workers.rewards.code_tests import program_of
from workers.rewards.judge_pool import JudgePool
from workers.rewards.sandbox import can_isolate

ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\nassert add('é', 'ü') == 'éü'"


def scores(pool: JudgePool, programs: list[str], answer: str) -> list[float | None]:
    return [judgement.score for judgement in pool.judge([make_sample(program, answer) for program in programs])]


@pytest.fixture(scope="module")
def asserts() -> Iterator[JudgePool]:
    with closing(JudgePool(CodeTestsReward(timeout_s=3.0, max_program_memory_mb=256), lambda: None)) as pool:
        yield pool


def test_a_program_passes_if_its_tests_do(asserts: JudgePool) -> None:
    fenced = f"First a thought.\n```python\nnonsense\n```\nThen:\n```python\n{ADD}```\nDone."
    programs = [ADD, fenced, "def add(a, b):\n    return 3\n", "def add(", "", "\x00", "\ud800"]
    assert scores(asserts, programs, TESTS) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "while True: pass",
        "x = bytearray(10 ** 9)" + "\n" + ADD,
        "import sys\nwhile True: sys.stdout.write('x' * 10 ** 6)",
        "import os\nwhile True:\n    open(str(os.getpid()), 'ab').write(b'x' * 10 ** 6)",
        "import os, signal; os.kill(os.getppid(), 0); os.kill(0, signal.SIGKILL)",
    ],
)
def test_a_program_that_misbehaves_earns_nothing_and_harms_nobody(asserts: JudgePool, program: str) -> None:
    assert scores(asserts, [program, ADD], TESTS) == [0.0, 1.0]


@pytest.mark.skipif(not can_isolate(), reason="the kernel grants no user namespace")
def test_a_program_has_no_network(asserts: JudgePool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = f"import socket\nsocket.create_connection({server.getsockname()!r}, 1)\n"
        assert scores(asserts, [connect + ADD], TESTS) == [0.0]


@pytest.mark.skipif(not can_isolate() or os.geteuid() == 0, reason="the kernel grants no user namespace, or is root's")
def test_a_program_has_few_processes(asserts: JudgePool) -> None:
    forks = "import os, time\nfor _ in range(100):\n    if os.fork() == 0:\n        time.sleep(60)\n"
    assert scores(asserts, [forks + ADD], TESTS) == [0.0]


def test_what_a_program_leaves_running_is_killed(asserts: JudgePool, tmp_path: Path) -> None:
    written = tmp_path / "pid"
    leave = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    open({str(written)!r}, 'w').write(str(os.getpid()))\n"
        "    os.closerange(0, 64); time.sleep(60); os._exit(0)\n"
        f"while not os.path.exists({str(written)!r}) or not os.path.getsize({str(written)!r}): time.sleep(0.01)\n"
    )
    assert scores(asserts, [leave + ADD], TESTS) == [1.0]
    assert not psutil.pid_exists(int(written.read_text()))


def test_a_program_that_reads_and_prints_is_run_for_each_case() -> None:
    cases = json.dumps([{"input": "1 2\n", "output": "3\n"}, {"input": "4 5", "output": "9"}])
    program = "print(sum(map(int, input().split())), ' ')"
    with closing(JudgePool(CodeTestsReward(tests="stdin_stdout", timeout_s=5.0), lambda: None)) as pool:
        assert scores(pool, [program, "print(3)", "print(1 / 0)"], cases) == [1.0, 0.0, 0.0]


def test_the_last_code_block_is_the_program() -> None:
    assert program_of("a\n```\nx\n```\nb\n```py\ny\nz\n```") == "y\nz\n"
    assert program_of("x = 1") == "x = 1"
