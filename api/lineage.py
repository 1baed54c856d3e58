"""An experiment's specification beside its parent's, and its lineage, read for whoever may see it."""

from collections.abc import Iterator, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from api import specification
from api.schemas import Experiment
from api.specification_schemas import (
    ComparedWith,
    DataDigest,
    Lineage,
    RelatedExperiment,
    Relation,
    SpecificationOut,
    StudyMembership,
)
from service import access, experiments, origins
from service.access import Action, Principal
from service.contract.messages import StageResult
from service.contract.spec import ExperimentSpec

_DIGESTS = ("data_sha256", "tokenizer_sha256", "template_sha256", "lineage_sha256", "prompts_sha256")


async def read_specification(
    session: AsyncSession, user: Principal, experiment_id: str, against: str | None
) -> SpecificationOut:
    """Compared with `against`, else with what it was cloned from, else with the baseline of its study.

    Raises NotFound for an `against` that does not exist or may not be seen.
    """
    spec = ExperimentSpec.model_validate((await experiments.get(session, experiment_id)).spec)
    origin = await origins.read(session, experiment_id)
    parent = await _parent(session, user, experiment_id, against, origin.cloned_from if origin else None)
    other = None if parent is None else await experiments.get(session, parent.experiment_id)
    return SpecificationOut(
        experiment_id=experiment_id,
        submitted=origin.submitted if origin else None,
        chosen=specification.chosen(spec),
        resolved=specification.resolved(spec),
        defaults=specification.defaults(spec),
        against=parent,
        changes=specification.changes(ExperimentSpec.model_validate(other.spec), spec) if other else [],
    )


async def _parent(
    session: AsyncSession, user: Principal, experiment_id: str, against: str | None, cloned_from: str | None
) -> ComparedWith | None:
    if against:
        await access.require_experiment(session, user, against, Action.READ)
        return await _compared(session, against, "chosen")
    if cloned_from and await _may_see(session, user, cloned_from):
        return await _compared(session, cloned_from, "cloned_from")
    place = await origins.place_in_study(session, experiment_id)
    if place is not None and place.baseline_id is not None:
        return await _compared(session, place.baseline_id, "baseline")
    return None


async def _compared(session: AsyncSession, experiment_id: str, relation: Relation) -> ComparedWith:
    names = await origins.names_of(session, [experiment_id])
    return ComparedWith(experiment_id=experiment_id, name=names.get(experiment_id, ""), relation=relation)


async def _may_see(session: AsyncSession, user: Principal, experiment_id: str) -> bool:
    """A copy may lie in another project than its pattern."""
    found = await experiments.get(session, experiment_id)
    return user.role_in(found.project_id) is not None


async def read_lineage(session: AsyncSession, user: Principal, experiment: Experiment) -> Lineage:
    """Experiments that the caller may not see are left out."""
    origin = await origins.read(session, experiment.id)
    cloned_from = origin.cloned_from if origin else None
    sources = dict(_sources(experiment.stage_results))
    wanted = [*sources.values(), *([cloned_from] if cloned_from else [])]
    names = await origins.names_of(session, wanted)
    place = await origins.place_in_study(session, experiment.id)
    takers = await origins.takers_of(session, experiment.id)
    copies = await origins.copies_of(session, experiment.id)
    return Lineage(
        experiment_id=experiment.id,
        cloned_from=RelatedExperiment(experiment_id=cloned_from, name=names.get(cloned_from, ""))
        if cloned_from and await _may_see(session, user, cloned_from)
        else None,
        copies=[
            RelatedExperiment(experiment_id=one, name=name)
            for one, name in copies
            if await _may_see(session, user, one)
        ],
        study=StudyMembership.model_validate(place, from_attributes=True) if place else None,
        # Stages are taken over within one project alone, so whoever sees this experiment sees those too.
        taken_from=[
            RelatedExperiment.model_validate({"experiment_id": one, "name": names.get(one, ""), "stage": stage})
            for stage, one in sources.items()
        ],
        taken_by=[RelatedExperiment.model_validate(one, from_attributes=True) for one in takers],
        data=list(_digests(experiment.stage_results)),
        code=next(
            (dict(one.detail["code"]) for one in reversed(experiment.stage_results) if one.detail.get("code")), {}
        ),
    )


def _sources(results: Sequence[StageResult]) -> Iterator[tuple[str, str]]:
    for result in results:
        source = result.detail.get("reused_from")
        if isinstance(source, dict) and source.get("experiment_id"):
            yield result.stage, str(source["experiment_id"])


def _digests(results: Sequence[StageResult]) -> Iterator[DataDigest]:
    for result in results:
        for what in _DIGESTS:
            if value := result.detail.get(what):
                yield DataDigest(stage=result.stage, what=what, sha256=str(value))
