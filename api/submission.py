"""A submission from body to row: look for a repeated request, plan without a database session, then queue."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from api.schemas import Experiment
from api.shapes import read_experiment, to_experiment
from service import access, experiments, origins, queue
from service.access import Principal
from service.contract.plan import ExperimentPlan
from service.contract.spec import ExperimentSpec
from service.experiments import ExperimentHistory, ExperimentView
from service.planning import Capacity, Memory
from service.storage.database import Sessions
from service.storage.tables import ClusterState


class PlanExperiment(Protocol):
    """Derives the numbers of a specification; raises CannotRun with every reason why it cannot work."""

    async def __call__(self, spec: ExperimentSpec, capacity: Capacity | None) -> ExperimentPlan:
        """The plan; `capacity` is None while the cluster is unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request to run an experiment."""

    user: Principal
    spec: ExperimentSpec
    body: Mapping[str, Any]
    """As it came."""
    idempotency_key: str | None
    cloned_from: str | None = None
    """The experiment whose specification it was made from."""

    @property
    def body_sha256(self) -> str:
        """Its digest."""
        return digest_body(self.body)


def digest_body(body: Mapping[str, Any]) -> str:
    """SHA-256 of the body's canonical JSON, in which the order of keys and white space do not count."""
    return sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


async def submit(
    looks: Sessions, sessions: Sessions, plan: PlanExperiment, submission: Submission
) -> tuple[Experiment, bool]:
    """The queued experiment, and whether it answers a repeated request.

    Whoever may not submit learns nothing, not even of earlier answers. A repeated request is answered before anything
    is planned: it succeeds although the data may have moved since. Raises InvalidSpec, Forbidden, CannotRun,
    IdempotencyConflict.
    """
    spec = submission.spec
    async with looks() as session:
        found = await experiments.surroundings(
            session, user=submission.user, project=spec.project, idempotency_key=submission.idempotency_key
        )
        known = found.project if found else None
        project = await access.require_submission(session, submission.user, spec.project, known)
        if submission.cloned_from is not None:
            await access.require_experiment(session, submission.user, submission.cloned_from, access.Action.READ)
        assert found is not None, "a project that is not there was refused"
        if found.first is not None:
            first = experiments.same_body(found.first, submission.body_sha256)
            return await read_experiment(session, first.id), True
        capacity = _capacity(found.cluster)
    planned = await plan(spec, capacity)
    async with sessions.begin() as session:
        made = await experiments.submit(
            session,
            user=submission.user,
            project=project,
            spec=spec,
            plan=planned.model_dump(mode="json"),
            body_sha256=submission.body_sha256,
            idempotency_key=submission.idempotency_key,
            beside=partial(origins.rows_of, submitted=submission.body, cloned_from=submission.cloned_from),
        )
        if made.is_replay:
            return await read_experiment(session, made.experiment.id), True
    # What was just made has neither attempts nor results.
    view = ExperimentView(
        experiment=made.experiment,
        project=spec.project,
        user=submission.user.name,
        queue_position=made.queue_position,
    )
    return to_experiment(view, ExperimentHistory(attempts=[], stage_results=[])), False


async def plan_now(looks: Sessions, plan: PlanExperiment, user: Principal, spec: ExperimentSpec) -> ExperimentPlan:
    """The plan against the cluster as last seen, for whoever may submit. Files are read with no session open.

    Raises InvalidSpec, Forbidden, CannotRun.
    """
    async with looks() as session:
        await access.require_submission(session, user, spec.project)
        capacity = await capacity_now(session)
    return await plan(spec, capacity)


async def capacity_now(session: AsyncSession) -> Capacity | None:
    """Of the cluster as last seen; None while that is unknown."""
    return _capacity(await queue.cluster_state(session))


def _capacity(state: ClusterState | None) -> Capacity | None:
    if state is None or not state.reachable:
        return None
    memory = Memory(
        node_bytes=state.node_memory_bytes, total_bytes=state.memory_bytes, gpu_bytes=state.gpu_memory_bytes
    )
    return Capacity(
        num_cpus=state.num_cpus,
        num_gpus=state.num_gpus,
        node_num_cpus=state.node_num_cpus,
        node_num_gpus=state.node_num_gpus,
        memory=memory,
    )
