"""The study as it stands: what was submitted, with every amendment applied in its order. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from service.contract.strict_model import describe_errors
from service.contract.studies import StudySpec
from service.contract.study_changes import StudyChange
from service.errors import InvalidRequest


def current_spec(submitted: Mapping[str, Any], changes: Iterable[Mapping[str, Any]]) -> StudySpec:
    """From the stored documents: `Study.spec`, and `StudyAmendment.change` by number."""
    spec = StudySpec.model_validate(submitted)
    for change in changes:
        spec = apply_change(spec, StudyChange.model_validate(change))
    return spec


def apply_change(spec: StudySpec, change: StudyChange) -> StudySpec:
    """The study after the change. Raises InvalidRequest for one that does not fit it."""
    _refuse_what_is_there(spec, change)
    body = spec.model_dump(mode="json")
    body["sft_seeds"] += change.add_sft_seeds
    body["rl_seeds"] += change.add_rl_seeds
    body["arms"] += [arm.model_dump(mode="json") for arm in change.add_arms]
    if change.budget is not None:
        body["budget"] |= change.budget.model_dump(mode="json", include=change.budget.model_fields_set)
    if change.changes_max_running:
        body["max_running"] = change.max_running
    try:
        return StudySpec.model_validate(body)
    except ValidationError as error:
        found = describe_errors(error, StudySpec)
        raise InvalidRequest(
            f"the study would not be valid afterwards: {found[0]['field']}: {found[0]['problem']}", errors=found
        ) from error


def _refuse_what_is_there(spec: StudySpec, change: StudyChange) -> None:
    names = [arm.name for arm in spec.arms]
    present: list[tuple[str, list[str]]] = [
        ("add_sft_seeds", [str(seed) for seed in change.add_sft_seeds if seed in spec.sft_seeds]),
        ("add_rl_seeds", [str(seed) for seed in change.add_rl_seeds if seed in spec.rl_seeds]),
        ("add_arms", [arm.name for arm in change.add_arms if arm.name in names]),
    ]
    for field, there in present:
        if there:
            raise _refused(
                field,
                f"{', '.join(there)} stood in the study already",
                "what was stated stays as it is; name new ones only",
            )
    if change.add_rl_seeds and not spec.rl_seeds:
        raise _refused(
            "add_rl_seeds",
            "the study has no rl_seeds: RL has its SFT's seed in every run",
            "runs with further seeds of RL would be another design; submit a study with rl_seeds, which takes over "
            "the SFT stages of this one",
        )


def _refused(field: str, problem: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {problem}; {hint}", errors=[{"field": field, "problem": problem, "hint": hint}])
