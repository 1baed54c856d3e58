"""A real driver on a real cluster, whose reward is judged in processes of its own."""

import time
from pathlib import Path

import psutil
import pytest

from service.contract.status import EndReason
from tests.workers.attempt_server import serving
from tests.workers.ray_head import ray_head
from tests.workers.test_pipeline import driver, make_spec, orders_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FUNCTION = """
import os

def reward(prompt, completion, answer):
    if len(completion) % 7 == 0:
        os._exit(3)
    return len(set(completion.split())) / 12
"""


def test_a_run_survives_a_reward_that_kills_its_processes_and_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "reward_that_exits.py").write_text(FUNCTION)
    own = {"type": "python_function", "function": "reward_that_exits:reward", "working_dir": str(tmp_path)}
    parts = [
        {"name": "right", "weight": 0.9, "reward": {"type": "countdown"}},
        {"name": "words", "weight": 0.1, "reward": own},
    ]
    audited = {"type": "audited", "reward": {"type": "combined", "parts": parts}, "auditor": {"type": "countdown"}}
    usual = make_spec(tmp_path)
    assert usual.rl is not None
    rl = usual.rl.model_dump(mode="json") | {"reward": audited, "num_steps": 2, "gate": None}
    spec = make_spec(tmp_path, sft=None, evaluation=None, rl=rl)
    with ray_head(num_cpus=2) as cluster, serving(orders_of(spec, str(tmp_path / "out"))) as server:
        with driver(cluster, server, tmp_path) as process:
            process.wait(timeout=600)
        assert [report.reason for report in server.finished] == [EndReason.COMPLETED]
        assert sum(value for _, value in server.points("reward/num_errors")) > 0
        assert [step for step, _ in server.points("rewards/words/mean")] == [1, 2]
        assert {value for _, value in server.points("reward/audit/disagreement")} == {0.0}
        limit = time.monotonic() + 10
        while left := judges_of(process.pid):
            assert time.monotonic() < limit, left
            time.sleep(0.1)


def judges_of(driver_pid: int) -> list[int]:
    """Judge processes of a driver, which they name in their last argument, wherever they hang in the tree now."""
    found = psutil.process_iter(["pid", "cmdline"])
    lines = [(child.info["pid"], child.info["cmdline"] or [""]) for child in found]
    return [pid for pid, line in lines if line[-1] == str(driver_pid) and "judge_process" in " ".join(line)]
