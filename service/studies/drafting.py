"""From a study to its experiments: each validated, and every fault named by the arm or the base that has it. Pure.

planned runs ── validated by arm ──> drafts ── settings keys ──> which stages are equal, and so run once
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from service.contract.spec import ExperimentSpec
from service.contract.stage_keys import reusable_stages
from service.contract.stages import StageName
from service.contract.strict_model import describe_errors
from service.contract.studies import PlannedRun, StudySpec, arm_names, planned_runs
from service.contract.study_plan import StageShare
from service.errors import InvalidSpec

RunKey = tuple[str, int, int]
"""Arm, SFT seed and RL seed: what makes a run of a study this one."""
_MOST_TOLD = 50
_STAGE_ORDER: tuple[StageName, ...] = ("evaluate_base", "sft", "evaluate_after_sft", "rl", "evaluate_after_rl")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRun:
    """An experiment of a study before it is queued."""

    arm: str
    sft_seed: int
    rl_seed: int
    spec: ExperimentSpec

    @property
    def key(self) -> RunKey:
        """See RunKey."""
        return self.arm, self.sft_seed, self.rl_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyDraft:
    """The experiments that a study is still to make."""

    id: str
    """Of the study; its experiments carry it as a tag."""
    spec: StudySpec
    """As it stands."""
    runs: list[DraftRun]
    """Within the budget's number, without those that exist."""
    num_planned: int
    """Those that the specification stands for, made or not."""

    def representatives(self) -> dict[str, DraftRun]:
        """The first run of each arm: plans do not depend on seeds."""
        found: dict[str, DraftRun] = {}
        for run in self.runs:
            found.setdefault(run.arm, run)
        return found


def draft_study(study_id: str, study: StudySpec, made: Collection[RunKey] = ()) -> StudyDraft:
    """The runs that are not in `made`. Raises InvalidSpec with every fault of every arm."""
    try:
        planned = list(planned_runs(study))
    except ValueError as error:
        raise InvalidSpec(str(error), errors=[{"field": "arms", "problem": str(error)}]) from error
    _refuse_invalid(study, planned)
    known = set(made)
    missing = (run for run in planned if (run.arm, run.sft_seed, run.rl_seed) not in known)
    limit = study.budget.max_experiments
    left = None if limit is None else max(0, limit - len(known))
    runs = [_draft(study_id, study, run) for run in islice(missing, left)]
    _refuse_unknown_primary(study, runs)
    return StudyDraft(id=study_id, spec=study, runs=runs, num_planned=len(planned))


def stage_shares(runs: Iterable[DraftRun]) -> list[StageShare]:
    """How often each stage stands in the runs, and how many of them differ."""
    found: dict[StageName, list[object]] = {}
    for number, run in enumerate(runs):
        for stage, key in stage_identities(run, number).items():
            found.setdefault(stage, []).append(key)
    return [
        StageShare(stage=stage, num_runs=len(found[stage]), num_distinct=len(set(found[stage])))
        for stage in _STAGE_ORDER
        if stage in found
    ]


def stage_identities(run: DraftRun, number: int) -> dict[StageName, object]:
    """Equal for stages that are run once; `number` tells those apart that are never taken over."""
    reusable = reusable_stages(run.spec) if run.spec.reuse == "auto" else {}
    return {
        stage: (reusable[stage].settings_key, reusable[stage].paths) if stage in reusable else number
        for stage in run.spec.stage_names()
    }


def by_arm(study: StudySpec, errors: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Findings of arms' experiments, each under what brought it: base, an arm's overrides, or a factor.

    What all arms have in common, and no override touches, is said once. Of very many arms the first ones are told of.
    """
    is_everywhere = len(errors) == len(arm_names(study))
    told = dict(islice(errors.items(), _MOST_TOLD))
    found: list[dict[str, Any]] = []
    for arm, entries in told.items():
        for entry in entries:
            shared = is_everywhere and all(entry in others for others in told.values())
            where = {**entry, "field": _origin(study, arm, str(entry["field"]), shared=shared)}
            if where not in found:
                found.append(where)
    return found


def _origin(study: StudySpec, arm: str, field: str, *, shared: bool) -> str:
    stated = next((one for one in study.arms if arm == one.name or arm.startswith(f"{one.name} [")), None)
    for key in study.factors:
        if _touches(key, field):
            return f"factors.{key}{_rest(key, field)}"
    for key in stated.overrides if stated is not None else ():
        if _touches(key, field):
            return f"arms.{stated.name if stated else arm}.overrides.{key}{_rest(key, field)}"
    return f"base.{field}" if shared else f"arms.{arm}: {field}"


def _touches(key: str, field: str) -> bool:
    return field == key or field.startswith(f"{key}.") or key.startswith(f"{field}.")


def _rest(key: str, field: str) -> str:
    return f": {field}" if field != key else ""


def _refuse_invalid(study: StudySpec, planned: Sequence[PlannedRun]) -> None:
    errors: dict[str, list[dict[str, Any]]] = {}
    for run in _first_of_each_arm(planned):
        try:
            run.spec()
        except ValidationError as error:
            # To describe takes far longer than to validate.
            errors[run.arm] = describe_errors(error, ExperimentSpec) if len(errors) < _MOST_TOLD else []
    if errors:
        found = by_arm(study, errors)
        raise InvalidSpec(in_words(found), errors=found)


def in_words(found: Sequence[Mapping[str, Any]]) -> str:
    """The first findings as one sentence."""
    said = [
        f"{entry['field']}: {entry['problem']}" + (f" ({entry['hint']})" if entry.get("hint") else "")
        for entry in found[:3]
    ]
    return "; ".join([*said, f"and {len(found) - 3} more, see errors"] if len(found) > 3 else said)


def _first_of_each_arm(planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    found: dict[str, PlannedRun] = {}
    for run in planned:
        found.setdefault(run.arm, run)
    return list(found.values())


def _draft(study_id: str, study: StudySpec, run: PlannedRun) -> DraftRun:
    body = dict(run.body)
    body["tags"] = [*body.get("tags", []), study_id]
    if study.max_running is not None:
        scheduling = dict(body.get("scheduling") or {})
        limit = {"group": study_id, "max_running": study.max_running}
        body["scheduling"] = {**scheduling, "limits": [*scheduling.get("limits", []), limit]}
    try:
        spec = ExperimentSpec.model_validate(body)
    except ValidationError as error:
        # Without what the study adds it is valid: a tag, or a limit, too many.
        found = [{**entry, "field": f"base.{entry['field']}"} for entry in describe_errors(error, ExperimentSpec)]
        raise InvalidSpec(f"{in_words(found)}; the study adds one of its own", errors=found) from error
    return DraftRun(arm=run.arm, sft_seed=run.sft_seed, rl_seed=run.rl_seed, spec=spec)


def _refuse_unknown_primary(study: StudySpec, runs: Sequence[DraftRun]) -> None:
    """What decides must be measured: in every arm, and with enough samples."""
    metric, wanted = study.primary.metric, study.primary.set
    seen: set[str] = set()
    for run in runs:
        if run.arm in seen:
            continue
        seen.add(run.arm)
        sets = run.spec.evaluation.sets if run.spec.evaluation else []
        chosen = next((one for one in sets if wanted in (None, one.name)), None)
        if chosen is None:
            have = ", ".join(one.name for one in sets) or "no evaluation"
            named = f"set {wanted!r}" if wanted else "evaluation"
            problem = f"arm {run.arm} has no {named}, which decides; it has {have}"
            raise _refused_primary("primary.set", problem, "name one that every arm has, or give base.evaluation")
        if metric.startswith("pass@") and int(metric.removeprefix("pass@")) > chosen.num_generations:
            problem = (
                f"{metric} needs more samples than the {chosen.num_generations} of a prompt in set {chosen.name!r}"
            )
            raise _refused_primary("primary.metric", problem, "choose a smaller k or more num_generations")


def _refused_primary(field: str, problem: str, hint: str) -> InvalidSpec:
    return InvalidSpec(f"{field}: {problem}; {hint}", errors=[{"field": field, "problem": problem, "hint": hint}])
