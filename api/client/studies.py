"""The client's calls about studies."""

import uuid
from collections.abc import Mapping
from typing import Any

from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, body_of, get, path, send
from api.study_schemas import StudyOut, StudyPage, StudyPlanReply, StudyRunPage
from service.contract.studies import StudySpec
from service.contract.study_changes import StudyChange

_TIMEOUT_S = 300.0
"""Of what changes all experiments of a study at once: there may be thousands."""


class StudyCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def submit_study(
        self, spec: StudySpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Request[StudyOut]:
        """Locks the study and queues its experiments. The same key and body give the same study, however often sent."""
        key = idempotency_key or uuid.uuid4().hex
        return send(StudyOut, "POST", path("studies"), body_of(spec), idempotency_key=key, timeout_s=_TIMEOUT_S)

    @call
    def dry_run_study(self, spec: StudySpec | Mapping[str, Any]) -> Request[StudyPlanReply]:
        """What would follow from the study; stores nothing."""
        return send(
            StudyPlanReply,
            "POST",
            path("studies"),
            body_of(spec),
            params={"dry_run": "true"},
            timeout_s=_TIMEOUT_S,
            may_repeat=True,
        )

    @call
    def study(self, study_id: str) -> Request[StudyOut]:
        """One study: state, runs by status, amendments, what it has used."""
        return get(StudyOut, path("studies", study_id))

    @call
    def studies(
        self,
        *,
        state: str | None = None,
        project: str | None = None,
        name: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Request[StudyPage]:
        """One page of studies, newest first."""
        filters = {"state": state, "project": project, "name": name, "limit": limit, "cursor": cursor}
        return get(StudyPage, path("studies"), filters)

    @call
    def study_runs(self, study_id: str) -> Request[StudyRunPage]:
        """All runs of a study, in the order in which they were queued."""
        return get(StudyRunPage, path("studies", study_id, "runs"))

    @call
    def amend_study(self, study_id: str, change: StudyChange | Mapping[str, Any]) -> Request[StudyOut]:
        """Adds seeds or arms, or changes the budget. Sent once: a second time it would be another amendment."""
        where = path("studies", study_id, "amendments")
        return send(StudyOut, "POST", where, body_of(change), timeout_s=_TIMEOUT_S)

    @call
    def pause_study(self, study_id: str, reason: str = "") -> Request[StudyOut]:
        """Holds what waits; what runs goes on."""
        return send(StudyOut, "POST", path("studies", study_id, "pause"), {"reason": reason}, timeout_s=_TIMEOUT_S)

    @call
    def resume_study(self, study_id: str) -> Request[StudyOut]:
        """Releases what the pause held."""
        return send(StudyOut, "POST", path("studies", study_id, "resume"), timeout_s=_TIMEOUT_S)

    @call
    def cancel_study(self, study_id: str, reason: str = "") -> Request[StudyOut]:
        """Cancels everything of it that has not ended."""
        return send(StudyOut, "POST", path("studies", study_id, "cancel"), {"reason": reason}, timeout_s=_TIMEOUT_S)

    @call
    def exclude_run(self, study_id: str, experiment_id: str, reason: str) -> Request[StudyRunPage]:
        """Takes a run out of the study's figures."""
        where = path("studies", study_id, "runs", experiment_id, "exclude")
        return send(StudyRunPage, "POST", where, {"reason": reason})

    @call
    def include_run(self, study_id: str, experiment_id: str) -> Request[StudyRunPage]:
        """Takes an exclusion back."""
        return send(StudyRunPage, "POST", path("studies", study_id, "runs", experiment_id, "include"))
