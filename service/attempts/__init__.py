"""The life of one attempt, as the scheduler opens it, its driver reports it, and either of them ends it.

Locks are taken in one order, the experiment's row before the attempt's. Reports, the one frequent call, lock the
attempt alone; only those with an event touch the experiment.
"""

from service.attempts.ending import (
    add_evidence,
    end_attempt,
    ended_hard,
    finish,
    mark_swept,
    next_status,
    release,
)
from service.attempts.opening import (
    Started,
    mark_stop_requested,
    mark_submitted,
    note_ray_job,
    open_attempt,
    start,
)
from service.attempts.telling import accept_report, record_run_events, record_stage_result

__all__ = [
    "Started",
    "accept_report",
    "add_evidence",
    "end_attempt",
    "ended_hard",
    "finish",
    "mark_stop_requested",
    "mark_submitted",
    "mark_swept",
    "next_status",
    "note_ray_job",
    "open_attempt",
    "record_run_events",
    "record_stage_result",
    "release",
    "start",
]
