"""The queue's narrow row of an experiment, derived once from its specification."""

from typing import Any, cast

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.resources import ResourcesSpec, RoleResources
from service.contract.spec import ExperimentSpec
from service.errors import InvalidSpec
from service.storage.scheduling_tables import QueueEntry
from service.storage.tables import Experiment

QUEUE_ENTRIES = cast(Table, QueueEntry.__table__)


def queue_entry(experiment: Experiment, spec: ExperimentSpec) -> dict[str, Any]:
    """The row of a new experiment."""
    wishes = spec.scheduling
    return {
        "experiment_id": experiment.id,
        "roles": roles_of(spec.held_resources),
        "max_runtime_s": spec.max_runtime_s,
        "preemptible": spec.is_preemptible,
        "start_not_before": wishes.not_before,
        "after_ids": wishes.after,
        "on_failed_dependency": wishes.on_failed_dependency,
        "limits": [limit.model_dump() for limit in wishes.limits],
        "reuse": spec.reuse == "auto",
        # Those that opt out are looked at too: others may wait for what they run.
        "content_state": "pending",
    }


def roles_of(resources: ResourcesSpec) -> list[dict[str, Any]]:
    """Each role's bundles, in the order in which the attempt holds them: how many, how many at most, and how large."""
    trainer, rollout = resources.trainer, resources.rollout
    bundles = resources.bundles
    num_shared = min(trainer.num_ranks, rollout.num_engines) if resources.placement == "colocated" else 0
    num_engines = rollout.num_engines - num_shared
    counts = (
        ("shared", num_shared, num_shared),
        ("trainer", trainer.num_ranks - num_shared, trainer.num_ranks - num_shared),
        ("rollout", num_engines, max(rollout.max_num_engines or 0, num_engines)),
    )
    roles, first = [], 0
    for name, count, most in counts:
        if count:
            roles.append(_role(name, bundles[first], count, most))
        first += count
    return roles


def _role(name: str, bundle: RoleResources, count: int, most: int) -> dict[str, Any]:
    return {
        "role": name,
        "count": count,
        "max_count": most,
        "num_cpus": bundle.num_cpus,
        "num_gpus": bundle.num_gpus,
        "gpu_types": bundle.gpu_types,
    }


async def refuse_unknown_dependencies(session: AsyncSession, experiment: Experiment, spec: ExperimentSpec) -> None:
    """Only what exists already can be depended on, so no two can wait for each other."""
    wanted = spec.scheduling.after
    if not wanted:
        return
    same_project = Experiment.project_id == experiment.project_id
    known = set(await session.scalars(select(Experiment.id).where(Experiment.id.in_(wanted), same_project)))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        problem = f"project {spec.project} has no experiment {', '.join(unknown)}"
        hint = "name experiments of the same project that were submitted before"
        errors = [{"field": "scheduling.after", "problem": problem, "hint": hint}]
        raise InvalidSpec(f"scheduling.after: {problem}; {hint}", errors=errors)
