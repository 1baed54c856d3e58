"""A reward that is used by threads which come and go."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from service.contract.rewards import PythonFunctionReward
from tests.workers.rewards.samples import make_sample
from tests.workers.rewards.test_judge_pool import MODULE
from workers.config_error import ConfigError
from workers.rewards.reward_thread import open_reward_in_thread

Value = TypeVar("Value")


@pytest.fixture
def spec(tmp_path: Path) -> PythonFunctionReward:
    (tmp_path / "judge_in_threads.py").write_text(MODULE)
    function, folder = "judge_in_threads:reward", str(tmp_path)
    return PythonFunctionReward(function=function, working_dir=folder, timeout_s=2.0, num_workers=1)


def in_a_thread(call: Callable[[], Value]) -> Value:
    """By a thread that is gone afterwards."""
    found: list[Value] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def judges() -> list[psutil.Process]:
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "judge_process" in " ".join(child.cmdline())]


def test_a_process_that_was_replaced_outlives_the_thread_that_asked(spec: PythonFunctionReward) -> None:
    with open_reward_in_thread(spec, lambda: None) as reward:
        crashed = in_a_thread(lambda: reward.judge([make_sample("crash")]))
        assert crashed[0].score == 0.0, "the error policy's"
        time.sleep(0.3)  # a process that were tied to that thread would be gone by now
        [judge] = judges()
        assert in_a_thread(lambda: reward.judge([make_sample("bb")]))[0].score == 3.0
        assert judges() == [judge], "and it was no other"
        tally = in_a_thread(reward.take_tally)
        assert reward.metrics_of(tally) == {
            "reward/num_errors": 1.0,
            "reward/num_timeouts": 0.0,
            "reward/num_dropped": 0.0,
        }
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reward")]


def test_what_is_being_judged_at_the_end_is_broken_off(spec: PythonFunctionReward) -> None:
    class Stop(Exception):
        pass

    began = time.monotonic()

    def check() -> None:
        if time.monotonic() > began + 1.0 and threading.current_thread() is threading.main_thread():
            raise Stop

    slow = spec.model_copy(update={"timeout_s": 100.0})
    with pytest.raises(Stop), open_reward_in_thread(slow, check) as reward:
        began = time.monotonic()
        reward.judge([make_sample("loop")])
    assert time.monotonic() - began < 10.0


def test_a_reward_that_cannot_work_says_so_to_who_opens_it(spec: PythonFunctionReward) -> None:
    wrong = spec.model_copy(update={"function": "judge_in_threads:nowhere"})
    with pytest.raises(ConfigError, match="nowhere"), open_reward_in_thread(wrong, lambda: None):
        raise AssertionError("opened")
