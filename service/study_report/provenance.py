"""Where a report's figures come from: versions, digests, changes after submission, runs that count for nothing."""

from collections.abc import Iterator, Sequence

from service.contract.status import ExperimentStatus
from service.contract.study_report import KnownVersion, LostRun, Provenance, ReportedAmendment
from service.study_report.facts import RunFacts, StudyFacts

_SOURCES = "sha256"
"""Key of the workers' sources among the facts of their code."""


def provenance_of(study: StudyFacts) -> Provenance:
    """All of it; a run counts for a version once, whichever of its stages has it."""
    return Provenance(
        service_version=study.service_version,
        lock_sha256=study.lock_sha256,
        spec_sha256=study.spec_sha256,
        versions=_versions(study.runs),
        amendments=[
            ReportedAmendment(at=one.at, by=one.by, what=one.what, reason=one.reason) for one in study.amendments
        ],
        lost_runs=[lost for run in study.runs if (lost := _lost(run)) is not None],
        reproduce=_commands(study),
    )


def _versions(runs: Sequence[RunFacts]) -> list[KnownVersion]:
    found: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for what, value in _told(run):
            found.setdefault((what, value), set()).add(run.experiment_id)
    return [
        KnownVersion(what=what, value=value, num_runs=len(members)) for (what, value), members in sorted(found.items())
    ]


def _told(run: RunFacts) -> Iterator[tuple[str, str]]:
    for stage in run.stages:
        for name, value in stage.code.items():
            yield ("workers (SHA-256)" if name == _SOURCES else name), value
        for name, value in stage.digests.items():
            yield f"{name} (SHA-256)", value
    for at_point in run.points.values():
        for name, counts in at_point.items():
            if counts.prompts_sha256:
                yield f"{name} prompts (SHA-256)", counts.prompts_sha256


def _lost(run: RunFacts) -> LostRun | None:
    if run.excluded_at is not None:
        why, reason = "excluded", f"{run.excluded_reason} (by {run.excluded_by})"
    elif run.status is ExperimentStatus.FAILED:
        why, reason = "failed", run.end
    elif run.status is ExperimentStatus.CANCELLED:
        why, reason = "cancelled", run.end
    else:
        return None
    return LostRun.model_validate(
        {
            "experiment_id": run.experiment_id,
            "arm": run.arm,
            "sft_seed": run.sft_seed,
            "rl_seed": run.rl_seed,
            "why": why,
            "reason": reason,
        }
    )


def _commands(study: StudyFacts) -> list[str]:
    return [f"sedray study spec {study.id} --output study.yaml", "sedray study submit study.yaml --watch"]
