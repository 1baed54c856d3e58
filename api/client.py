"""`SedrayClient`: the Python client of a sedray service.

    with SedrayClient("http://127.0.0.1:8700", token) as client:
        experiment = client.submit(spec)
        for message in client.stream(experiment.id):
            ...

It needs pydantic and httpx only. The transport is a parameter (`http=`), so tests talk to the app in process.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from api.access_client import AuditLog, Projects, Tokens, Users, Webhooks
from api.access_schemas import Me
from api.client_requests import Model
from api.operation_client import OperationCalls
from api.queue_client import QueueCalls
from api.schemas import (
    EventPage,
    Experiment,
    ExperimentPage,
    ExperimentPlanReply,
    LogPage,
    MetricNamePage,
    MetricSeriesPage,
    QueueOut,
    RolloutPage,
    RolloutSearchPage,
    StoredRolloutOut,
    StoredRolloutsPage,
    TokenViewPage,
)
from api.study_client import StudyCalls
from api.study_report_client import StudyReportCalls
from service.contract.messages import TokenView
from service.contract.preview import DataPreview
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from service.contract.stored_rollouts import RolloutQuery

_RETRIES = 4
_PREVIEW_TIMEOUT_S = 600.0
"""The service ends a preview much earlier, and says so."""
_SEARCH_TIMEOUT_S = 90.0
"""The service ends a page, or a piece of a file, earlier."""
_RETRY_STATUSES = frozenset({502, 503, 504})


class SedrayError(Exception):
    """The root of what the client raises."""


class ServiceUnreachable(SedrayError):
    """No answer after several tries."""


class ProblemReply(SedrayError):
    """The service refused; the fields are those of its problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.title = str(problem.get("title", ""))
        self.errors: list[dict[str, Any]] = list(problem.get("errors") or [])
        self.problem = dict(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMessage:
    """One server-sent message: `event`, `metrics`, `progress`, `logs` or `end`, with its decoded data."""

    event: str
    data: Any
    id: str | None


class SedrayClient(QueueCalls, OperationCalls, StudyCalls, StudyReportCalls):
    """Synchronous client. Submissions always carry an idempotency key, so they may be repeated safely; what may not be
    repeated, such as issuing a token, is sent once."""

    def __init__(self, base_url: str, token: str, *, http: httpx.Client | None = None, timeout_s: float = 30.0) -> None:
        self._http = http or httpx.Client(timeout=timeout_s)
        self._base = base_url.rstrip("/") + "/api/v1"
        self._headers = {"Authorization": f"Bearer {token}"}
        self.projects = Projects(self._call)
        self.users = Users(self._call)
        self.tokens = Tokens(self._call)
        self.webhooks = Webhooks(self._call)
        self.audit = AuditLog(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def me(self) -> Me:
        """Whom the token belongs to."""
        return self._get(Me, "/me")

    def submit(self, spec: ExperimentSpec | Mapping[str, Any], *, idempotency_key: str | None = None) -> Experiment:
        """Queues an experiment. The same key and specification give the same experiment, however often sent."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._call(Experiment, "POST", "/experiments", json=_body(spec), headers=headers)

    def dry_run(self, spec: ExperimentSpec | Mapping[str, Any]) -> ExperimentPlanReply:
        """The resolved specification and its derived numbers; stores nothing."""
        return self._call(ExperimentPlanReply, "POST", "/experiments", json=_body(spec), params={"dry_run": "true"})

    def experiment(self, experiment_id: str) -> Experiment:
        """One experiment with attempts and stage results."""
        return self._get(Experiment, f"/experiments/{experiment_id}")

    def experiments(
        self,
        *,
        status: str | Sequence[str] | None = None,
        project: str | None = None,
        user: str | None = None,
        tag: str | None = None,
        objective: str | None = None,
        name: str | None = None,
        text: str | None = None,
        order: str = "newest",
        limit: int = 50,
        cursor: str | None = None,
    ) -> ExperimentPage:
        """One page of experiments; `text` is searched in names, descriptions, ids and tags."""
        narrowed = {"status": status, "project": project, "user": user, "tag": tag, "objective": objective}
        page = {"name": name, "text": text, "order": order, "limit": limit, "cursor": cursor}
        filters: dict[str, Any] = narrowed | page
        return self._get(ExperimentPage, "/experiments", filters)

    def cancel(self, experiment_id: str) -> Experiment:
        """Asks for the end: at once while queued, else heard by the run within seconds."""
        return self._call(Experiment, "POST", f"/experiments/{experiment_id}/cancel")

    def retry(self, experiment_id: str) -> Experiment:
        """Queues a failed or cancelled experiment again; it goes on from its last checkpoint."""
        return self._call(Experiment, "POST", f"/experiments/{experiment_id}/retry")

    def events(self, experiment_id: str, *, after: int = 0, limit: int = 500) -> EventPage:
        """What happened, oldest first."""
        return self._get(EventPage, f"/experiments/{experiment_id}/events", {"after": after, "limit": limit})

    def metric_names(self, experiment_id: str) -> MetricNamePage:
        """The metrics that the experiment has, with their newest values."""
        return self._get(MetricNamePage, f"/experiments/{experiment_id}/metrics/names")

    def metrics(
        self,
        experiment_id: str,
        names: Sequence[str] = (),
        *,
        max_points: int = 1000,
        from_step: int | None = None,
        to_step: int | None = None,
    ) -> MetricSeriesPage:
        """Series as points where they fit into `max_points`, else as envelopes."""
        query = {"name": list(names), "max_points": max_points, "from_step": from_step, "to_step": to_step}
        return self._get(MetricSeriesPage, f"/experiments/{experiment_id}/metrics", query)

    def logs(
        self,
        experiment_id: str,
        *,
        after: int | None = None,
        tail: int | None = None,
        limit: int | None = None,
        source: str | None = None,
        attempt: int | None = None,
        search: str | None = None,
    ) -> LogPage:
        """Log lines after an id, or the newest `tail`; of one source or attempt, or with a text in them."""
        query = {"after": after, "tail": tail, "limit": limit, "source": source, "attempt": attempt, "search": search}
        return self._get(LogPage, f"/experiments/{experiment_id}/logs", query)

    def rollouts(self, experiment_id: str, *, limit: int = 20, before: int | None = None) -> RolloutPage:
        """Stored completions, newest first."""
        return self._get(RolloutPage, f"/experiments/{experiment_id}/rollouts", {"limit": limit, "before": before})

    def stored_rollouts(self, experiment_id: str) -> StoredRolloutsPage:
        """The RL steps whose rollouts are stored whole."""
        return self._get(StoredRolloutsPage, f"/experiments/{experiment_id}/rollouts/stored")

    def download_rollouts(self, experiment_id: str, step: int, target: Path) -> None:
        """Write the rollouts of one RL step to `target`, a Parquet file that appears when it is whole."""
        self._download(f"/experiments/{experiment_id}/rollouts/stored/{step}", {}, target)

    def search_rollouts(self, experiment_id: str, query: RolloutQuery | None = None) -> Iterator[StoredRolloutOut]:
        """All stored completions that fit, in the query's order, page after page; its `limit` is a page's."""
        asked = (query or RolloutQuery()).model_copy(update={"format": "json"}).as_parameters()
        while True:
            page = self._get(
                RolloutSearchPage, f"/experiments/{experiment_id}/rollouts/search", asked, timeout_s=_SEARCH_TIMEOUT_S
            )
            yield from page.items
            if page.next_cursor is None:
                return
            asked["cursor"] = page.next_cursor

    def export_rollouts(self, experiment_id: str, target: Path, query: RolloutQuery | None = None) -> None:
        """Write all stored completions that fit to `target`, a Parquet file that appears when it is whole."""
        asked = (query or RolloutQuery()).model_copy(update={"format": "parquet"}).as_parameters()
        self._download(f"/experiments/{experiment_id}/rollouts/search", asked, target)

    def token_views(
        self,
        experiment_id: str,
        *,
        stage: StageName | None = None,
        step: int | None = None,
        sample_index: int | None = None,
        after: int | None = None,
        limit: int = 200,
    ) -> TokenViewPage:
        """Which samples were looked at token by token, and after which steps; oldest first."""
        query = {"stage": stage, "step": step, "sample_index": sample_index, "after": after, "limit": limit}
        return self._get(TokenViewPage, f"/experiments/{experiment_id}/token-views", query)

    def token_view(
        self, experiment_id: str, *, step: int, sample_index: int = 0, stage: StageName = "sft"
    ) -> TokenView:
        """One held-out sample token by token, as it was after `step` optimizer steps."""
        return self._get(TokenView, f"/experiments/{experiment_id}/token-views/{stage}/{step}/{sample_index}")

    def preview_data(
        self, spec: ExperimentSpec | Mapping[str, Any], *, num_samples: int = 3, max_records: int = 20_000
    ) -> DataPreview:
        """The first samples of each data set as tokens with what is trained, lengths, counts and digests."""
        query = {"num_samples": num_samples, "max_records": max_records}
        return self._call(
            DataPreview, "POST", "/data/preview", json=_body(spec), params=query, timeout_s=_PREVIEW_TIMEOUT_S
        )

    def queue(self) -> QueueOut:
        """Who runs and who waits, and why."""
        return self._get(QueueOut, "/queue")

    def stream(self, experiment_id: str, *, last_event_id: str | None = None) -> Iterator[StreamMessage]:
        """Live messages until the experiment has ended; reconnects and goes on after the last message it saw.

        Raises ServiceUnreachable after about a minute without any answer.
        """
        failures = 0
        while True:
            try:
                for message in self._stream_once(experiment_id, last_event_id):
                    failures = 0
                    last_event_id = message.id or last_event_id
                    yield message
                    if message.event == "end":
                        return
                time.sleep(0.2)  # the server closes long streams; go on after the last message
            except httpx.TransportError as error:
                failures += 1
                if failures > 12:
                    raise ServiceUnreachable(f"the live stream of {experiment_id} broke off: {error}") from error
                time.sleep(min(0.5 * 2**failures, 5.0))

    def wait(self, experiment_id: str, *, timeout_s: float | None = None) -> Experiment:
        """Blocks until the experiment has ended; raises TimeoutError after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not (experiment := self.experiment(experiment_id)).status.is_terminal:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"experiment {experiment_id} is still {experiment.status} after {timeout_s} s")
            time.sleep(1.0)
        return experiment

    def _stream_once(self, experiment_id: str, last_event_id: str | None) -> Iterator[StreamMessage]:
        headers = {**self._headers, **({"Last-Event-ID": last_event_id} if last_event_id else {})}
        url = f"{self._base}/experiments/{experiment_id}/stream"
        # The server sends a comment every 15 s, so a longer silence means a dead connection.
        timeout = httpx.Timeout(10.0, read=45.0)
        with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code in _RETRY_STATUSES:
                raise httpx.ReadError(f"HTTP {response.status_code}")
            if response.is_error:
                response.read()
                raise _problem(response)
            yield from parse_stream(response.iter_lines())

    def _download(self, path: str, query: Mapping[str, Any], target: Path) -> None:
        """Write an answer's body to a file that appears when it is whole."""
        part = target.with_name(f".{target.name}.part")
        try:
            with self._http.stream(
                "GET", self._base + path, params=query, headers=self._headers, timeout=_SEARCH_TIMEOUT_S
            ) as response:
                if response.is_error:
                    response.read()
                    raise _problem(response)
                with part.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            part.replace(target)
        except httpx.TransportError as error:
            raise ServiceUnreachable(f"the download from {self._base} broke off: {error}") from error
        finally:
            part.unlink(missing_ok=True)

    def _get(
        self, model: type[Model], path: str, query: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Model:
        params = {k: v for k, v in (query or {}).items() if v is not None}
        return self._call(model, "GET", path, params=params, timeout_s=timeout_s)

    def _call(
        self,
        model: type[Model],
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        repeat: bool = True,
    ) -> Model:
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        retries = _RETRIES if repeat else 0
        for failures in range(retries + 1):
            try:
                response = self._http.request(
                    method,
                    self._base + path,
                    json=json,
                    params=params,
                    headers={**self._headers, **(headers or {})},
                    timeout=timeout,
                )
            except httpx.TransportError as error:
                if failures == retries:
                    raise ServiceUnreachable(f"{self._base} does not answer: {error}") from error
            else:
                if response.status_code not in _RETRY_STATUSES or failures == retries:
                    return _decode(model, response)
            time.sleep(0.25 * 2**failures)
        raise AssertionError("unreachable")


def parse_stream(lines: Iterator[str]) -> Iterator[StreamMessage]:
    """Messages of a `text/event-stream`, comments left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
        elif "data" in fields:
            yield StreamMessage(
                event=fields.get("event", "message"), data=json.loads(fields["data"]), id=fields.get("id")
            )
            fields = {}
        else:
            fields = {}


def _body(spec: ExperimentSpec | Mapping[str, Any]) -> Any:
    return spec.model_dump(mode="json") if isinstance(spec, ExperimentSpec) else dict(spec)


def _decode(model: type[Model], response: httpx.Response) -> Model:
    if response.is_error:
        raise _problem(response)
    return model.model_validate_json(response.content)


def _problem(response: httpx.Response) -> ProblemReply:
    try:
        problem = response.json()
    except ValueError:
        problem = {"title": f"HTTP {response.status_code}", "detail": response.text[:500]}
    return ProblemReply(response.status_code, problem if isinstance(problem, dict) else {})
