"""A verifier that loops, dies or eats memory costs its own sample, and the others get their verdicts."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from service.contract.rewards import HttpJudgeReward, MathAnswerReward, PythonFunctionReward, RegexReward, SingleReward
from tests.workers.rewards.samples import make_sample
from workers.config_error import ConfigError
from workers.rewards.judge_pool import JudgePool
from workers.rewards.samples import GoldUnreadable

MODULE = """
import os, sys, time

def reward(prompt, completion, answer):
    if completion == "loop":
        while True:
            pass
    if completion == "crash":
        os.abort()
    if completion == "hog":
        return len(bytearray(10 ** 11))
    if completion == "print":
        for _ in range(200):
            print("x" * 10_000); sys.stderr.write("y" * 10_000); os.write(1, b"z" * 10_000)
    if completion == "exit":
        sys.exit(0)
    if completion == "nan":
        return float("nan")
    if completion == "text":
        return "much"
    if completion == "sleep":
        time.sleep(0.2)
    return len(completion) + (prompt == answer)
"""


@pytest.fixture
def spec(tmp_path: Path) -> PythonFunctionReward:
    (tmp_path / "judge_of_tests.py").write_text(MODULE)
    return PythonFunctionReward(
        function="judge_of_tests:reward", working_dir=str(tmp_path), timeout_s=2.0, max_memory_mb=2048
    )


@pytest.fixture
def pool(spec: PythonFunctionReward) -> Iterator[JudgePool]:
    with closing(JudgePool(spec, lambda: None)) as opened:
        yield opened


def scores(pool: JudgePool, completions: list[str]) -> list[float | str | None]:
    found = pool.judge([make_sample(text, uid=place) for place, text in enumerate(completions)])
    return [judgement.failure if judgement.score is None else judgement.score for judgement in found]


def test_every_kind_of_misbehaviour_costs_one_sample_and_the_order_is_kept(pool: JudgePool) -> None:
    completions = ["a", "loop", "bb", "crash", "ccc", "hog", "print", "exit", "nan", "text", "日本 \ud800", ""]
    expected = [2.0, "timeout", 3.0, "crash", 4.0, "error", 6.0, "error", "error", "error", 5.0, 1.0]
    assert scores(pool, completions) == expected
    assert scores(pool, ["again"]) == [6.0]


def test_samples_are_judged_at_the_same_time(pool: JudgePool) -> None:
    began = time.monotonic()
    assert scores(pool, ["sleep"] * 10) == [6.0] * 10
    assert time.monotonic() - began < 1.9


def test_a_long_completion_does_not_block(pool: JudgePool) -> None:
    assert scores(pool, ["x" * 3_000_000] * 3) == [3_000_001.0] * 3


def test_a_process_that_dies_between_two_batches_takes_no_sample_along(pool: JudgePool) -> None:
    assert scores(pool, ["a"]) == [2.0]
    judges = [child for child in psutil.Process().children() if "judge_process" in " ".join(child.cmdline())]
    for judge in judges:
        judge.kill()
    while any(judge.status() != psutil.STATUS_ZOMBIE for judge in judges):
        time.sleep(0.01)
    assert scores(pool, ["a", "bb", "ccc"]) == [2.0, 3.0, 4.0]


def test_closing_leaves_no_process(spec: PythonFunctionReward) -> None:
    before = {child.pid for child in psutil.Process().children()}
    pool = JudgePool(spec, lambda: None)
    assert len({child.pid for child in psutil.Process().children()} - before) == spec.num_workers
    pool.close()
    assert {child.pid for child in psutil.Process().children()} <= before


class Stop(Exception):
    pass


def test_a_cancellation_is_heard_while_a_sample_loops(spec: PythonFunctionReward) -> None:
    waits = iter(range(10_000))

    def check() -> None:
        if asked and next(waits) == 2:
            raise Stop

    asked = False
    with closing(JudgePool(spec.model_copy(update={"timeout_s": 100.0}), check)) as pool:
        asked = True
        with pytest.raises(Stop):
            scores(pool, ["loop"])


def test_a_reward_that_cannot_work_is_refused_at_once(spec: PythonFunctionReward) -> None:
    with pytest.raises(ConfigError, match="has no attribute 'missing'"):
        JudgePool(spec.model_copy(update={"function": "judge_of_tests:missing"}), lambda: None)


def test_a_pattern_that_backtracks_for_ever_is_stopped() -> None:
    spec: SingleReward = RegexReward(pattern=r"^(a+)+$", timeout_s=1.0, num_workers=1)
    with closing(JudgePool(spec, lambda: None)) as pool:
        assert scores(pool, ["a" * 40 + "b", "aaa"]) == ["timeout", 1.0]


def test_mathematics_is_judged_and_a_gold_answer_that_is_none_ends_the_run() -> None:
    with closing(JudgePool(MathAnswerReward(num_workers=1), lambda: None)) as pool:
        right = pool.judge([make_sample(r"\boxed{0.5}", r"\frac{1}{2}")])
        assert [judgement.score for judgement in right] == [1.0]
        with pytest.raises(GoldUnreadable):
            pool.judge([make_sample("1", "+")])


def test_judge_processes_end_with_a_driver_that_is_killed(spec: PythonFunctionReward, tmp_path: Path) -> None:
    program = (
        "import sys; from pydantic import TypeAdapter; from service.contract.rewards import SingleReward\n"
        "from workers.rewards.judge_pool import JudgePool; from tests.workers.rewards.samples import make_sample\n"
        "pool = JudgePool(TypeAdapter(SingleReward).validate_json(sys.argv[1]), lambda: None)\n"
        "print('open', flush=True); pool.judge([make_sample('loop')] * 2)\n"
    )
    body = spec.model_copy(update={"timeout_s": 100.0}).model_dump_json()
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", program, body], stdout=subprocess.PIPE, cwd=root) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"open\n"
        judges = psutil.Process(driver.pid).children()
        driver.kill()
    assert len(judges) == spec.num_workers
    assert psutil.wait_procs(judges, timeout=10)[1] == []


class _Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["completion"] == "slow":
            time.sleep(2.0)
        known = self.headers["Authorization"] == "Bearer geheim"
        reply = json.dumps({"score": len(body["completion"]) / 4 if known else -1.0}).encode()
        self.send_response(200 if body["completion"] != "refused" else 400)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        with suppress(BrokenPipeError):
            self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_a_service_is_asked_with_its_token_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "geheim")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Judge) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/score"
        spec = HttpJudgeReward(url=url, token_env="JUDGE_TOKEN", timeout_s=0.5, num_retries=0, num_workers=3)
        with closing(JudgePool(spec, lambda: None)) as pool:
            assert scores(pool, ["日本", "slow", "refused", "a"]) == [0.5, "error", "error", 0.25]
        server.shutdown()
