"""The life of one attempt, as the scheduler opens it, its driver reports it, and either of them ends it.

Locks are taken in one order, the experiment's row before the attempt's. Reports, the one frequent call, lock the
attempt alone; only those with an event touch the experiment.
"""

from service.attempts.ending import add_evidence, end_attempt, finish, next_status, release
from service.attempts.opening import Started, mark_stop_requested, mark_submitted, open_attempt, start
from service.attempts.telling import accept_report, record_run_events, record_stage_result

__all__ = [
    "Started",
    "accept_report",
    "add_evidence",
    "end_attempt",
    "finish",
    "mark_stop_requested",
    "mark_submitted",
    "next_status",
    "open_attempt",
    "record_run_events",
    "record_stage_result",
    "release",
    "start",
]
