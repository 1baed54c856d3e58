"""The driver's talk with a real HTTP server around work that a test decides: every end and its exit code."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.contract.messages import StageResult, StartReply
from service.contract.status import EndReason
from tests.factories import make_spec
from tests.workers.attempt_server import ATTEMPT_ID, TOKEN, AttemptServer, orders_of, serving
from workers.actors.trainer_results import NonFinite
from workers.actors.vllm_adapter import EngineFailed
from workers.config_error import ConfigError
from workers.pipeline.endings import ClusterLost, Incomplete, reason_of
from workers.pipeline.interrupts import Interrupts
from workers.pipeline.session import (
    EXIT_COMPLETED,
    EXIT_ENDED,
    EXIT_OVER,
    EXIT_REFUSED,
    EXIT_TERMINATED,
    Drive,
    run_session,
)
from workers.placement import ActorDied, DeadlineExceeded, NoPlacement, Role
from workers.reporter.reporter import Reporter
from workers.settings import WorkerSettings
from workers.stages.engine_roster import EnginesLost
from workers.stages.gate import GateClosed
from workers.weight_sync import WeightSyncFailed

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RESULT = StageResult(
    stage="sft", started_at=NOW, finished_at=NOW, duration_s=1.0, steps_done=3, steps_planned=3, metrics={}
)


@pytest.fixture
def server(capfd: pytest.CaptureFixture[str]) -> Iterator[AttemptServer]:
    before = signal.getsignal(signal.SIGTERM)
    with serving(orders_of(make_spec(), "/out")) as server:
        yield server
    signal.signal(signal.SIGTERM, before)


def run(server: AttemptServer, folder: Path, drive: Drive, token: str = TOKEN) -> int:
    settings = WorkerSettings(
        attempt_id=ATTEMPT_ID, service_url=server.url, token_file=folder / "token", work_dir=folder
    )
    return run_session(settings, token, lambda: (drive, reason_of))


def works(orders: StartReply, reporter: Reporter, interrupts: Interrupts) -> list[StageResult]:
    reporter.points(3, {"sft/loss": 1.0})
    reporter.stage_result(RESULT)
    os.write(1, b"work done\n")
    return [RESULT]


def fails_with(error: BaseException) -> Drive:
    def drive(orders: StartReply, reporter: Reporter, interrupts: Interrupts) -> list[StageResult]:
        reporter.progress("rl", "generating", 2, 9)
        os.write(2, b"about to fail\n")
        raise error

    return drive


def waits(orders: StartReply, reporter: Reporter, interrupts: Interrupts) -> list[StageResult]:
    while True:
        interrupts.check()
        time.sleep(0.01)


def test_completed_work_is_delivered_before_the_last_word(server: AttemptServer, tmp_path: Path) -> None:
    assert run(server, tmp_path, works) == EXIT_COMPLETED
    assert [report.reason for report in server.finished] == [EndReason.COMPLETED]
    assert (server.finished[0].steps_done, server.finished[0].steps_planned) == (3, 3)
    assert server.stage_results() == [RESULT]
    assert server.points("sft/loss") == [(3, 1.0)]
    assert "work done" in server.lines()


def test_a_mirror_gets_the_metrics_and_its_events_come_before_the_last_word(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    mirrors = [{"type": "tensorboard", "dir": str(tmp_path / "tb")}, {"type": "wandb", "mode": "online"}]
    with serving(orders_of(make_spec(mirrors=mirrors), "/out")) as server:
        assert run(server, tmp_path, works) == EXIT_COMPLETED
        kinds = [event.kind for report in server.reports for event in report.events]
    signal.signal(signal.SIGTERM, before)
    assert sorted(kinds) == ["mirror_failed", "mirror_finished", "mirror_started"]
    assert list((tmp_path / "tb").rglob("events.*")) and server.points("sft/loss") == [(3, 1.0)]


def test_service_that_is_away_for_a_while_changes_nothing(server: AttemptServer, tmp_path: Path) -> None:
    server.faults.extend(["500", "drop request", None, "drop answer", "500", None, "500", "drop answer"])
    assert run(server, tmp_path, works) == EXIT_COMPLETED
    assert server.points("sft/loss") == [(3, 1.0)]
    assert {report.reason for report in server.finished} == {EndReason.COMPLETED}


def test_failure_leaves_its_evidence(server: AttemptServer, tmp_path: Path) -> None:
    assert run(server, tmp_path, fails_with(NonFinite("loss is nan in step 3"))) == EXIT_ENDED
    report = server.finished[0]
    assert (report.reason, report.message) == (EndReason.NON_FINITE, "loss is nan in step 3")
    assert (report.evidence["stage"], report.evidence["step"]) == ("rl", 2)
    assert "NonFinite: loss is nan in step 3" in report.evidence["traceback"]
    assert "about to fail" in report.evidence["last_lines"]
    assert report.evidence["versions"]["ray"]


def test_cancellation_ends_the_wait_and_is_told(server: AttemptServer, tmp_path: Path) -> None:
    server.cancel = True
    assert run(server, tmp_path, waits) == EXIT_ENDED
    assert [report.reason for report in server.finished] == [EndReason.CANCELLED_BY_USER]


def test_409_at_the_start_does_no_work(server: AttemptServer, tmp_path: Path) -> None:
    server.over = True
    assert run(server, tmp_path, fails_with(AssertionError("worked"))) == EXIT_OVER
    assert server.num_calls == 1


def test_409_during_the_work_ends_it_without_another_word(server: AttemptServer, tmp_path: Path) -> None:
    def loses_the_attempt(orders: StartReply, reporter: Reporter, interrupts: Interrupts) -> list[StageResult]:
        server.over = True
        return waits(orders, reporter, interrupts)

    assert run(server, tmp_path, loses_the_attempt) == EXIT_OVER
    assert server.finished == []


def test_wrong_token_is_refused(server: AttemptServer, tmp_path: Path) -> None:
    assert run(server, tmp_path, works, token="another") == EXIT_REFUSED


def test_sigterm_without_a_cancellation_leaves_quickly(server: AttemptServer, tmp_path: Path) -> None:
    def is_stopped(orders: StartReply, reporter: Reporter, interrupts: Interrupts) -> list[StageResult]:
        os.kill(os.getpid(), signal.SIGTERM)
        return waits(orders, reporter, interrupts)

    assert run(server, tmp_path, is_stopped) == EXIT_TERMINATED
    assert server.finished == []


def test_sigterm_after_a_cancellation_still_tells_it(server: AttemptServer, tmp_path: Path) -> None:
    def is_cancelled_and_stopped(orders: StartReply, reporter: Reporter, interrupts: Interrupts) -> list[StageResult]:
        server.cancel = True
        reporter.deliver(5.0, lambda: None)
        reporter.deliver(5.0, lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        return waits(orders, reporter, interrupts)

    assert run(server, tmp_path, is_cancelled_and_stopped) == EXIT_ENDED
    assert [report.reason for report in server.finished] == [EndReason.CANCELLED_BY_USER]


def test_environment_that_cannot_be_imported_is_a_config_error(server: AttemptServer, tmp_path: Path) -> None:
    def load() -> tuple[Drive, Callable[[BaseException], EndReason]]:
        raise ImportError("libtorch.so is missing")

    settings = WorkerSettings(
        attempt_id=ATTEMPT_ID, service_url=server.url, token_file=tmp_path / "token", work_dir=tmp_path
    )
    assert run_session(settings, TOKEN, load) == EXIT_ENDED
    assert server.finished[0].reason is EndReason.CONFIG_ERROR
    assert "libtorch.so is missing" in server.finished[0].message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConfigError("x"), EndReason.CONFIG_ERROR),
        (NonFinite("x"), EndReason.NON_FINITE),
        (EngineFailed("x"), EndReason.ENGINE_FAILED),
        (WeightSyncFailed("x"), EndReason.WEIGHT_SYNC_FAILED),
        (Incomplete("sft", 1, 2), EndReason.INCOMPLETE),
        (GateClosed(["x"]), EndReason.GATE_CLOSED),
        (ActorDied(Role.TRAINER, "x"), EndReason.ACTOR_DIED),
        (ActorDied(Role.TRAINER, "x", out_of_memory=True), EndReason.OUT_OF_MEMORY),
        (MemoryError(), EndReason.OUT_OF_MEMORY),
        (DeadlineExceeded("an RL step", Role.TRAINER, 1.0), EndReason.ACTOR_DIED),
        (EnginesLost("four times", out_of_memory=False), EndReason.ENGINE_FAILED),
        (EnginesLost("four times", out_of_memory=True), EndReason.OUT_OF_MEMORY),
        (DeadlineExceeded("a generation", Role.ROLLOUT, 1.0), EndReason.ENGINE_FAILED),
        (NoPlacement("x", 1.0), EndReason.NO_CAPACITY),
        (ClusterLost("x"), EndReason.RAY_JOB_FAILED),
        (KeyError("x"), EndReason.STAGE_FAILED),
    ],
)
def test_every_exception_has_its_reason(error: Exception, reason: EndReason) -> None:
    assert reason_of(error) is reason
