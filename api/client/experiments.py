"""The client's calls about experiments: submit, look, cancel, follow."""

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from api.client.calls import AnyTransport, Conversation, Emit, Follow, Part, Pause, Walk, ask, call, walk
from api.client.live import StreamMessage
from api.client.requests import Request, get, path, send
from api.schemas import (
    Event,
    EventPage,
    Experiment,
    ExperimentCounts,
    ExperimentPage,
    ExperimentPlanReply,
    ExperimentSummary,
)
from service.contract.spec import ExperimentSpec

_SHORTEST_LOOK_S = 1.0
_LONGEST_LOOK_S = 5.0


class ExperimentCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def submit(
        self, spec: ExperimentSpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Request[Experiment]:
        """Queues an experiment. The same key and specification give the same experiment, however often sent."""
        key = idempotency_key or uuid.uuid4().hex
        return send(Experiment, "POST", path("experiments"), spec_body(spec), idempotency_key=key)

    @call
    def dry_run(self, spec: ExperimentSpec | Mapping[str, Any]) -> Request[ExperimentPlanReply]:
        """The resolved specification and its derived numbers; stores nothing."""
        dry = {"dry_run": "true"}
        return send(ExperimentPlanReply, "POST", path("experiments"), spec_body(spec), params=dry, may_repeat=True)

    @call
    def experiment(self, experiment_id: str) -> Request[Experiment]:
        """One experiment with attempts and stage results."""
        return get(Experiment, path("experiments", experiment_id))

    @call
    def experiments(
        self,
        *,
        status: str | None = None,
        project: str | None = None,
        user: str | None = None,
        tag: str | None = None,
        objective: str | None = None,
        name: str | None = None,
        text: str | None = None,
        order: str = "newest",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Request[ExperimentPage]:
        """One page of experiments; `text` is searched in names, descriptions, ids and tags."""
        filters = {"status": status, "project": project, "user": user, "tag": tag, "objective": objective}
        filters |= {"name": name, "text": text, "order": order, "limit": str(limit), "cursor": cursor}
        return get(ExperimentPage, path("experiments"), filters)

    @call
    def experiment_counts(
        self, *, project: str | None = None, user: str | None = None, tag: str | None = None, text: str | None = None
    ) -> Request[ExperimentCounts]:
        """How many experiments there are of each status."""
        filters = {"project": project, "user": user, "tag": tag, "text": text}
        return get(ExperimentCounts, path("experiments", "counts"), filters)

    @walk
    def all_experiments(
        self, *, status: str | None = None, project: str | None = None, tag: str | None = None, name: str | None = None
    ) -> Walk[ExperimentSummary]:
        """Every experiment that fits, newest first, page after page as they are asked for."""
        cursor: str | None = None
        while True:
            filters = {"status": status, "project": project, "tag": tag, "name": name, "limit": 200, "cursor": cursor}
            page = yield from ask(get(ExperimentPage, path("experiments"), filters))
            yield Emit(page.items)
            if (cursor := page.next_cursor) is None:
                return

    @call
    def experiment_schema(self) -> Request[dict[str, Any]]:
        """The JSON Schema of a specification, as the service checks it."""
        return Request(read=json.loads, method="GET", path=path("schema", "experiment"), may_repeat=True)

    @call
    def cancel(self, experiment_id: str) -> Request[Experiment]:
        """Asks for the end: at once while queued, else heard by the run within seconds."""
        return send(Experiment, "POST", path("experiments", experiment_id, "cancel"))

    @call
    def retry(self, experiment_id: str) -> Request[Experiment]:
        """Queues a failed or cancelled experiment again; it goes on from its last checkpoint."""
        return send(Experiment, "POST", path("experiments", experiment_id, "retry"))

    @call
    def events(self, experiment_id: str, *, after: int = 0, limit: int = 500) -> Request[EventPage]:
        """What happened, oldest first."""
        return get(EventPage, path("experiments", experiment_id, "events"), {"after": after, "limit": limit})

    @walk
    def stream(self, experiment_id: str, *, last_event_id: str | None = None) -> Follow[StreamMessage]:
        """Live messages until the experiment has ended; reconnects and goes on after the last message it saw.

        Raises ServiceUnreachable after about a minute without any answer.
        """
        return Follow(experiment_id=experiment_id, last_event_id=last_event_id, pick=_as_it_is)

    @walk
    def follow_events(self, experiment_id: str, *, last_event_id: str | None = None) -> Follow[Event]:
        """What has happened and happens, until the experiment has ended."""
        return Follow(experiment_id=experiment_id, last_event_id=last_event_id, pick=_event)

    @call
    def wait(self, experiment_id: str, *, timeout_s: float | None = None) -> Conversation[Experiment]:
        """The experiment when it has ended; raises TimeoutError after `timeout_s`."""
        began = time.monotonic()
        pause_s = _SHORTEST_LOOK_S
        while True:
            experiment = yield from ask(get(Experiment, path("experiments", experiment_id)))
            if experiment.status.is_terminal:
                return experiment
            if timeout_s is not None and time.monotonic() - began > timeout_s:
                raise TimeoutError(f"experiment {experiment_id} is still {experiment.status} after {timeout_s} s")
            yield Pause(pause_s)
            pause_s = min(pause_s * 1.2, _LONGEST_LOOK_S)


def spec_body(spec: ExperimentSpec | Mapping[str, Any]) -> Any:
    """As JSON, with every default."""
    return spec.model_dump(mode="json") if isinstance(spec, ExperimentSpec) else dict(spec)


def _as_it_is(message: StreamMessage) -> Walk[StreamMessage]:
    yield Emit([message])


def _event(message: StreamMessage) -> Walk[Event]:
    if message.event == "event":
        yield Emit([Event.model_validate(message.data)])
