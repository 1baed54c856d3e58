"""Studies as the service keeps them: submitted, amended, ordered about, watched, and read.

draft_study ──> submit ──> runs in the queue ──> look_after (the scheduler's pass) ──> stopped or finished
                  ^                 ^
                amend      pause, resume, cancel, exclude, include
"""

from service.studies.amending import apply_change
from service.studies.counts import POINTS, RunCounts, SetCounts, primary_scores, read_counts
from service.studies.drafting import DraftRun, StudyDraft, draft_study
from service.studies.orders import cancel, exclude, include, pause, resume
from service.studies.reading import (
    RunView,
    StudyFilter,
    StudyPageStart,
    StudyView,
    list_page,
    runs,
    spec_and_amendments,
    view,
)
from service.studies.submission import PlannedDraft, amend, find_replay, submit
from service.studies.watching import look_after, open_studies, used_hours

__all__ = [
    "POINTS",
    "DraftRun",
    "PlannedDraft",
    "RunCounts",
    "RunView",
    "SetCounts",
    "StudyDraft",
    "StudyFilter",
    "StudyPageStart",
    "StudyView",
    "amend",
    "apply_change",
    "cancel",
    "draft_study",
    "exclude",
    "find_replay",
    "include",
    "list_page",
    "look_after",
    "open_studies",
    "pause",
    "primary_scores",
    "read_counts",
    "resume",
    "runs",
    "spec_and_amendments",
    "submit",
    "used_hours",
    "view",
]
