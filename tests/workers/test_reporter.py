"""The reporter against a real HTTP server that fails on demand."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.contract.messages import LogLine, MetricPoint, RolloutSample, StageResult
from service.contract.stages import StageName
from tests.factories import make_spec
from tests.workers.attempt_server import ATTEMPT_ID, TOKEN, AttemptServer, Fault, orders_of, serving
from tests.workers.stage_world import make_view
from workers.reporter.attempt_service import AttemptOver, AttemptService, ServiceRefused
from workers.reporter.batch import MAX_BYTES, MAX_POINTS
from workers.reporter.outbox import NUM_IN_MEMORY
from workers.reporter.reporter import Cancelled, Reporter

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[AttemptServer]:
    with serving(orders_of(make_spec(), "/out")) as server:
        yield server


class _Running:
    """A reporter with its service client, closed at the end."""

    def __init__(self, server: AttemptServer, folder: Path) -> None:
        self.service = AttemptService(service_url=server.url, attempt_id=ATTEMPT_ID, token=TOKEN)
        self.reporter = Reporter(self.service, spool_dir=folder / "spool", first_retry_s=0.01)

    def __enter__(self) -> Reporter:
        self.reporter.start(0.02)
        return self.reporter

    def __exit__(self, *_: object) -> None:
        self.reporter.close()
        self.service.close()


def deliver(reporter: Reporter, deadline_s: float = 20.0) -> bool:
    return reporter.deliver(deadline_s, lambda: None)


def make_result(stage: StageName = "sft") -> StageResult:
    return StageResult(
        stage=stage, started_at=NOW, finished_at=NOW, duration_s=1.0, steps_done=1, steps_planned=1, metrics={}
    )


def make_sample(text: str) -> RolloutSample:
    return RolloutSample(
        stage="rl",
        step=1,
        prompt_uid=0,
        sample_index=0,
        prompt="p",
        completion=text,
        answer="a",
        reward=1.0,
        num_tokens=3,
        policy_version=0,
    )


def test_token_views_and_events_arrive(server: AttemptServer, tmp_path: Path) -> None:
    views = [make_view(num_tokens) for num_tokens in (2, 3)]
    with _Running(server, tmp_path) as reporter:
        reporter.token_views(views)
        reporter.event("resumed", "on \0 we go" + "!" * 3000, {"step": 7, "checkpoint": None})
        assert deliver(reporter)
    assert server.token_views() == views
    (event,) = server.events()
    assert (event.kind, event.detail) == ("resumed", {"step": 7, "checkpoint": None})
    assert event.message.startswith("on \ufffd we go!") and len(event.message) == 2000


def test_large_token_views_are_spread_over_reports(server: AttemptServer, tmp_path: Path) -> None:
    with _Running(server, tmp_path) as reporter:
        reporter.token_views(make_view(8192) for _ in range(6))
        assert deliver(reporter)
    assert len(server.token_views()) == 6
    assert max(server.report_sizes) < MAX_BYTES + 1000


def test_points_lines_samples_and_progress_arrive_in_order(server: AttemptServer, tmp_path: Path) -> None:
    with _Running(server, tmp_path) as reporter:
        reporter.points(1, {"sft/loss": 2.0, "sft/nll": float("nan")})
        reporter.log_line("hello \0 \ud800")
        reporter.rollouts([make_sample("text")])
        reporter.progress("sft", "training", 1, 2)
        assert deliver(reporter)
    assert server.points("sft/loss") == [(1, 2.0)]
    assert len(server.points("sft/nll")) == 1
    assert server.lines() == ["hello \ufffd \ufffd"]
    assert [sample.completion for sample in server.rollouts()] == ["text"]
    assert server.progress is not None and server.progress.phase == "training"


def test_empty_reports_are_the_heartbeat(server: AttemptServer, tmp_path: Path) -> None:
    with _Running(server, tmp_path):
        server.wait_until(lambda: server.last_seq >= 3)
    assert server.stored == []


def test_lost_answer_never_doubles_a_point(server: AttemptServer, tmp_path: Path) -> None:
    server.faults.extend(["drop answer", "drop answer", None])
    with _Running(server, tmp_path) as reporter:
        reporter.points(1, {"sft/loss": 2.0})
        assert deliver(reporter)
    assert server.points("sft/loss") == [(1, 2.0)]
    assert server.num_duplicates == 2


def test_service_away_fills_the_spool_and_loses_nothing(server: AttemptServer, tmp_path: Path) -> None:
    server.away = True
    num_points = (NUM_IN_MEMORY + 4) * MAX_POINTS
    with _Running(server, tmp_path) as reporter:
        for step in range(num_points):
            reporter.points(step, {"sft/loss": float(step)})
        while not list(tmp_path.glob("spool/*-reports.json")):
            time.sleep(0.01)
        server.away = False
        assert deliver(reporter)
    assert [step for step, _ in server.points("sft/loss")] == list(range(num_points))
    assert list(tmp_path.glob("spool/*")) == []


def test_reports_stay_within_their_bounds(server: AttemptServer, tmp_path: Path) -> None:
    with _Running(server, tmp_path) as reporter:
        for step in range(3 * MAX_POINTS):
            reporter.points(step, {"sft/loss": 0.0})
        reporter.rollouts(make_sample("é" * 100_000) for _ in range(20))
        reporter.rollouts([make_sample("x" * (2 * MAX_BYTES))])
        assert deliver(reporter)
    assert max(sum(len(one.steps) for one in report.series) for report in server.reports) == MAX_POINTS
    alone = [
        report for report in server.reports if any(len(sample.completion) > MAX_BYTES for sample in report.rollouts)
    ]
    assert [len(report.rollouts) for report in alone] == [1]
    others = [size for size, report in zip(server.report_sizes, server.reports, strict=True) if report not in alone]
    assert max(others) <= MAX_BYTES
    assert len(server.rollouts()) == 21


def test_stage_result_keeps_its_place_among_the_points(server: AttemptServer, tmp_path: Path) -> None:
    server.faults.extend(["500", "drop answer", None, "500", "drop answer"])
    with _Running(server, tmp_path) as reporter:
        reporter.points(1, {"sft/loss": 1.0})
        reporter.stage_result(make_result())
        reporter.points(0, {"eval/test/pass@1": 0.5})
        assert deliver(reporter)
    kinds = [item.name if isinstance(item, MetricPoint) else "result" for item in server.stored]
    assert kinds[0] == "sft/loss" and kinds[-1] == "eval/test/pass@1"
    assert set(kinds[1:-1]) == {"result"}, "a repeated result is the service's to recognise"


def test_cancel_in_an_acknowledgement_raises_in_every_check(server: AttemptServer, tmp_path: Path) -> None:
    server.cancel = True
    with _Running(server, tmp_path) as reporter:
        reporter.points(1, {"sft/loss": 1.0})
        assert deliver(reporter)
        for _ in range(2):
            with pytest.raises(Cancelled):
                reporter.check()


def test_after_409_nothing_more_is_sent(server: AttemptServer, tmp_path: Path) -> None:
    server.over = True
    with _Running(server, tmp_path) as reporter:
        with pytest.raises(AttemptOver):
            deliver(reporter)
        with pytest.raises(AttemptOver):
            reporter.check()
        calls = server.num_calls
        reporter.points(1, {"sft/loss": 1.0})
        with pytest.raises(AttemptOver):
            deliver(reporter)
    assert server.num_calls == calls


@pytest.mark.parametrize("status", [401, 403, 404, 413, 422])
def test_refusal_is_told_and_not_repeated(status: int, server: AttemptServer, tmp_path: Path) -> None:
    server.refused_status = status
    with _Running(server, tmp_path) as reporter:
        assert not deliver(reporter)
        with pytest.raises(ServiceRefused, match=str(status)):
            reporter.check()
    assert server.num_calls == 1


def test_hanging_service_does_not_block_the_caller(server: AttemptServer, tmp_path: Path) -> None:
    server.faults.append("hang")
    with _Running(server, tmp_path) as reporter:
        server.wait_until(lambda: True)
        began = time.perf_counter()
        for step in range(1000):
            reporter.points(step, {"sft/loss": 0.0})
        assert time.perf_counter() - began < 1.0
        assert not deliver(reporter, deadline_s=0.05)
        server.let_go.set()
        assert deliver(reporter)
    assert len(server.points("sft/loss")) == 1000


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.sampled_from([None, "500", "drop request", "drop answer"]), max_size=8),
    bursts=st.lists(st.integers(0, 300), min_size=1, max_size=5),
)
def test_every_line_arrives_once_and_in_order_whatever_fails(
    faults: list[Fault | None], bursts: list[int], tmp_path: Path
) -> None:
    with serving(orders_of(make_spec(), "/out")) as server:
        server.faults.extend(faults)
        sent = 0
        with _Running(server, tmp_path) as reporter:
            for burst in bursts:
                for _ in range(burst):
                    reporter.log_line(f"line {sent}")
                    sent += 1
                time.sleep(0.005)
            assert deliver(reporter)
        assert server.lines() == [f"line {number}" for number in range(sent)]


def test_since_of_the_progress_stays_while_the_phase_stays(server: AttemptServer, tmp_path: Path) -> None:
    with _Running(server, tmp_path) as reporter:
        reporter.progress("sft", "training", 1, 9)
        first = reporter.last_progress
        reporter.progress("sft", "training", 2, 9)
        second = reporter.last_progress
        reporter.progress("rl", "training", 0, 9)
        third = reporter.last_progress
    assert first and second and third
    assert first.since == second.since != third.since


def test_overlong_line_is_cut(server: AttemptServer, tmp_path: Path) -> None:
    with _Running(server, tmp_path) as reporter:
        reporter.log_line("x" * 5000)
        assert deliver(reporter)
    assert [len(item.text) for item in server.stored if isinstance(item, LogLine)] == [4000]
