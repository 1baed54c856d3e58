"""The client's calls about studies."""

import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from api.client.requests import Requests
from api.study_schemas import StudyOut, StudyPage, StudyPlanReply, StudyRunPage
from service.contract.studies import StudySpec
from service.contract.study_changes import StudyChange

_TIMEOUT_S = 300.0
"""Of what changes all experiments of a study at once: there may be thousands."""


class StudyCalls(Requests):
    """A part of `SedrayClient`."""

    def submit_study(self, spec: StudySpec | Mapping[str, Any], *, idempotency_key: str | None = None) -> StudyOut:
        """Locks the study and queues its experiments. The same key and body give the same study, however often sent."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._call(StudyOut, "POST", "/studies", json=_body(spec), headers=headers, timeout_s=_TIMEOUT_S)

    def dry_run_study(self, spec: StudySpec | Mapping[str, Any]) -> StudyPlanReply:
        """What would follow from the study; stores nothing."""
        return self._call(
            StudyPlanReply,
            "POST",
            "/studies",
            json=_body(spec),
            params={"dry_run": "true"},
            timeout_s=_TIMEOUT_S,
        )

    def study(self, study_id: str) -> StudyOut:
        """One study: state, runs by status, amendments, what it has used."""
        return self._get(StudyOut, f"/studies/{study_id}")

    def studies(
        self,
        *,
        state: str | None = None,
        project: str | None = None,
        name: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> StudyPage:
        """One page of studies, newest first."""
        filters = {"state": state, "project": project, "name": name, "limit": limit, "cursor": cursor}
        return self._get(StudyPage, "/studies", filters)

    def study_runs(self, study_id: str) -> StudyRunPage:
        """All runs of a study, in the order in which they were queued."""
        return self._get(StudyRunPage, f"/studies/{study_id}/runs")

    def amend_study(self, study_id: str, change: StudyChange | Mapping[str, Any]) -> StudyOut:
        """Adds seeds or arms, or changes the budget. Sent once: a second time it would be another amendment."""
        return self._call(
            StudyOut,
            "POST",
            f"/studies/{study_id}/amendments",
            json=_body(change),
            timeout_s=_TIMEOUT_S,
            repeat=False,
        )

    def pause_study(self, study_id: str, reason: str = "") -> StudyOut:
        """Holds what waits; what runs goes on."""
        return self._call(StudyOut, "POST", f"/studies/{study_id}/pause", json={"reason": reason}, timeout_s=_TIMEOUT_S)

    def resume_study(self, study_id: str) -> StudyOut:
        """Releases what the pause held."""
        return self._call(StudyOut, "POST", f"/studies/{study_id}/resume", timeout_s=_TIMEOUT_S)

    def cancel_study(self, study_id: str, reason: str = "") -> StudyOut:
        """Cancels everything of it that has not ended."""
        return self._call(
            StudyOut, "POST", f"/studies/{study_id}/cancel", json={"reason": reason}, timeout_s=_TIMEOUT_S
        )

    def exclude_run(self, study_id: str, experiment_id: str, reason: str) -> StudyRunPage:
        """Takes a run out of the study's figures."""
        path = f"/studies/{study_id}/runs/{experiment_id}/exclude"
        return self._call(StudyRunPage, "POST", path, json={"reason": reason})

    def include_run(self, study_id: str, experiment_id: str) -> StudyRunPage:
        """Takes an exclusion back."""
        return self._call(StudyRunPage, "POST", f"/studies/{study_id}/runs/{experiment_id}/include")


def _body(document: BaseModel | Mapping[str, Any]) -> Any:
    # What was not said is left out: of a change, leaving out and taking away are different things.
    return document.model_dump(mode="json", exclude_unset=True) if isinstance(document, BaseModel) else dict(document)
