"""A service of one attempt for tests: real HTTP, the contract's rules, and faults on demand."""

import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Event, Thread
from typing import Any, Literal, cast

from service.contract.messages import (
    FinishReport,
    LogLine,
    MetricPoint,
    Progress,
    ReportAck,
    RolloutSample,
    RunEvent,
    StageResult,
    StartReply,
    TokenView,
    WorkerReport,
)
from service.contract.spec import ExperimentSpec

TOKEN = "sa_test"
ATTEMPT_ID = f"attempt-{os.getpid()}"
"""Of this process: what an attempt leaves on the machine carries its name, and other test runs may be at work."""

Fault = Literal["500", "drop request", "drop answer", "hang"]


class AttemptServer:
    """What the service has stored, and how it answers the next calls."""

    def __init__(self, orders: StartReply) -> None:
        self.orders = orders
        self.faults: deque[Fault | None] = deque()
        """Of the next calls, in order; None is a good answer."""
        self.away = False
        """Whether every call fails."""
        self.over = False
        self.refused_status: int | None = None
        self.cancel = False
        self.preempt = False
        self.let_go = Event()
        """Ends all hanging calls."""
        self.num_calls = 0
        self.last_seq = 0
        self.num_duplicates = 0
        self.reports: list[WorkerReport] = []
        self.report_sizes: list[int] = []
        self.stored: list[MetricPoint | LogLine | RolloutSample | TokenView | RunEvent | StageResult] = []
        """Everything, in the order of its arrival."""
        self.progress: Progress | None = None
        self.finished: list[FinishReport] = []
        self.url = ""
        self._changed = Condition()

    def points(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, in the order of arrival."""
        found = [item for item in self.stored if isinstance(item, MetricPoint) and item.name == name]
        return [(point.step, point.value) for point in found]

    def metric_names(self) -> set[str]:
        """All metrics that have a point."""
        return {item.name for item in self.stored if isinstance(item, MetricPoint)}

    def stage_results(self) -> list[StageResult]:
        """Results in the order of arrival."""
        return [item for item in self.stored if isinstance(item, StageResult)]

    def lines(self) -> list[str]:
        """Log lines in the order of arrival."""
        return [item.text for item in self.stored if isinstance(item, LogLine)]

    def rollouts(self) -> list[RolloutSample]:
        """Samples in the order of arrival."""
        return [item for item in self.stored if isinstance(item, RolloutSample)]

    def token_views(self) -> list[TokenView]:
        """Views in the order of arrival."""
        return [item for item in self.stored if isinstance(item, TokenView)]

    def events(self, kind: str | None = None) -> list[RunEvent]:
        """Events in the order of arrival, all or those of a kind."""
        return [item for item in self.stored if isinstance(item, RunEvent) and kind in (None, item.kind)]

    def wait_until(self, fact: Any, timeout_s: float = 10.0) -> None:
        """Wait until `fact()` holds; it is looked at after every call."""
        with self._changed:
            assert self._changed.wait_for(fact, timeout_s), "the fact did not come true in time"

    def answer(self, path: str, token: str | None, body: bytes) -> tuple[int, str] | None:
        """Status and body of the answer; None closes the connection without one."""
        with self._changed:
            self.num_calls += 1
            fault = "500" if self.away else self.faults.popleft() if self.faults else None
        if fault == "hang":
            self.let_go.wait(30.0)
        if fault == "500" or fault == "drop request":
            return (500, "the database is away") if fault == "500" else None
        with self._changed:
            answer = self._store(path, token, body)
            self._changed.notify_all()
        return None if fault == "drop answer" else answer

    def _store(self, path: str, token: str | None, body: bytes) -> tuple[int, str]:
        prefix = f"/api/v1/attempts/{ATTEMPT_ID}/"
        if not path.startswith(prefix):
            return 404, "no such attempt"
        if token != f"Bearer {TOKEN}":
            return 401, "no valid token"
        if self.refused_status:
            return self.refused_status, "refused"
        if self.over:
            return 409, "stale_attempt"
        match path.removeprefix(prefix):
            case "start":
                return 200, self.orders.model_dump_json()
            case "reports":
                return self._store_report(body)
            case "stage-results":
                self.stored.append(StageResult.model_validate_json(body))
                return 204, ""
            case "finish":
                self.finished.append(FinishReport.model_validate_json(body))
                return 204, ""
        return 404, "no such call"

    def _store_report(self, body: bytes) -> tuple[int, str]:
        report = WorkerReport.model_validate_json(body)
        if report.seq > self.last_seq + 1:
            return 409, f"report {self.last_seq + 1} expected"
        duplicate = report.seq <= self.last_seq
        if duplicate:
            self.num_duplicates += 1
        else:
            self.last_seq = report.seq
            self.reports.append(report)
            self.report_sizes.append(len(body))
            self.stored += [
                *_points(report),
                *report.log_lines,
                *report.rollouts,
                *report.token_views,
                *report.events,
            ]
            self.progress = report.progress or self.progress
        answer = ReportAck(seq=report.seq, duplicate=duplicate, cancel=self.cancel, preempt=self.preempt)
        return 200, answer.model_dump_json()


def _points(report: WorkerReport) -> list[MetricPoint]:
    columns = [(one.name, zip(one.steps, one.values, one.ts, strict=True)) for one in report.columns()]
    return [MetricPoint(name=name, step=step, value=value, ts=ts) for name, rows in columns for step, value, ts in rows]


def orders_of(spec: ExperimentSpec, output_dir: str, completed: list[StageResult] | None = None) -> StartReply:
    """What `start` answers."""
    return StartReply(
        experiment_id="experiment-1",
        attempt_id=ATTEMPT_ID,
        attempt_number=1,
        spec=spec,
        output_dir=output_dir,
        completed_stages=completed or [],
        report_interval_s=0.05,
    )


@contextmanager
def serving(orders: StartReply) -> Iterator[AttemptServer]:
    """An attempt server at `url`, on a free loopback port."""
    state = AttemptServer(orders)
    http = _Server(("127.0.0.1", 0), _Handler)
    http.state = state
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.let_go.set()
        http.shutdown()
        thread.join()
        http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: AttemptServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes; without this each answer waits for the peer's delayed acknowledgement.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = cast(_Server, self.server).state.answer(self.path, self.headers["Authorization"], body)
        if answer is None:
            self.close_connection = True
            return
        status, text = answer
        content = text.encode() if status == 200 else json.dumps({"detail": text}).encode() if text else b""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
