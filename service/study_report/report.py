"""The report put together from the facts of a study: pure, and the same for the same facts."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from service.contract.status import ExperimentStatus
from service.contract.studies import StudySpec, arm_names
from service.contract.study_report import StudyPart, StudyReport
from service.study_report.comparability import ComparableRuns, agreed, comparable_parts, differences
from service.study_report.comparisons import arm_comparisons, primary_key
from service.study_report.costs import arm_costs
from service.study_report.curves import step_curves
from service.study_report.diversity import associations, diversity_rows, pass_curves
from service.study_report.facts import RunFacts, StudyFacts
from service.study_report.main_table import main_table
from service.study_report.provenance import provenance_of
from service.study_report.scoring import scored_sets
from service.study_report.wording import POINT_NAMES


def make_report(study: StudyFacts, now: datetime) -> StudyReport:
    """Everything that can be said now; a study without a result has no part."""
    order = {name: place for place, name in enumerate(arm_names(study.spec))}
    runs = sorted(study.runs, key=lambda run: (order.get(run.arm, len(order)), run.sft_seed, run.rl_seed))
    comparable = comparable_parts([run for run in runs if run.counts and run.points])
    parts = [_part(part, study.spec) for part in comparable]
    return StudyReport(
        study_id=study.id,
        name=study.spec.name,
        project=study.project,
        question=study.spec.question,
        made_at=now,
        is_finished=study.is_finished,
        runs_by_status=_by_status(runs),
        num_planned=study.num_planned,
        state=_state(study),
        baseline=study.spec.baseline,
        primary=_primary(study.spec, parts),
        alpha=study.spec.alpha,
        answers=[row.sentence for part in parts for row in part.comparisons if row.is_primary],
        differing=differences(comparable),
        parts=parts,
        costs=arm_costs(runs),
        provenance=provenance_of(study),
    )


def _part(part: ComparableRuns[RunFacts], spec: StudySpec) -> StudyPart:
    sets, notes = scored_sets(part.runs, spec.primary.metric)
    return StudyPart(
        arms=part.arms,
        num_runs=len(part.runs),
        conditions=agreed(part),
        table=main_table(part.runs, sets, spec),
        comparisons=arm_comparisons(part.runs, sets, spec),
        pass_curves=pass_curves(part.runs, sets),
        diversity=diversity_rows(part.runs, sets),
        associations=associations(part.runs, sets, spec),
        step_curves=step_curves(part.runs),
        notes=[*notes, *_missing_baseline(part, spec)],
    )


def _missing_baseline(part: ComparableRuns[RunFacts], spec: StudySpec) -> list[str]:
    if any(arm == spec.baseline or arm.startswith(f"{spec.baseline} [") for arm in part.arms):
        return []
    return [f"no run of the baseline {spec.baseline} is in this part, so nothing is compared with it"]


def _by_status(runs: Sequence[RunFacts]) -> dict[ExperimentStatus, int]:
    found = Counter(run.status for run in runs)
    return {status: found[status] for status in ExperimentStatus if found[status]}


def _state(study: StudyFacts) -> str:
    succeeded = sum(run.status is ExperimentStatus.SUCCEEDED for run in study.runs)
    lost = sum(run.status in (ExperimentStatus.FAILED, ExperimentStatus.CANCELLED) for run in study.runs)
    excluded = sum(run.excluded_at is not None for run in study.runs)
    told = f"{succeeded} of {study.num_planned} runs have succeeded"
    told += f", {lost} have failed or were cancelled" if lost else ""
    told += f", {excluded} are excluded" if excluded else ""
    if study.is_finished:
        return f"{told}."
    return f"Unfinished: {told}; figures may still change."


def _primary(spec: StudySpec, parts: Sequence[StudyPart]) -> str:
    point = POINT_NAMES[spec.primary.point]
    columns = parts[0].table.columns if parts else []
    found = next((column for column in columns if column.key == primary_key(columns, spec)), None)
    if found is None:
        return f"{spec.primary.metric}{f' on {spec.primary.set}' if spec.primary.set else ''}, {point}"
    return f"{found.metric} on {found.key}, {point}"
