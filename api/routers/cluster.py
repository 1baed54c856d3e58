"""The cluster as the scheduler last saw it, beside our ledger. Nothing here calls Ray."""

from fastapi import APIRouter

from api.cluster_schemas import ClusterDetail
from api.cluster_shapes import read_cluster_detail
from api.deps import CurrentUser, SessionDep, SettingsDep
from api.problems import problem_responses

router = APIRouter(tags=["queue"])


@router.get("/cluster", summary="Show the cluster: nodes, actors, schedulers", responses=problem_responses(401))
async def show_cluster(user: CurrentUser, session: SessionDep, settings: SettingsDep) -> ClusterDetail:
    """What Ray has and holds as the scheduler last saw it, what our ledger has given out, and who schedules.

    Sums count all projects; experiments are those of your own.
    """
    return await read_cluster_detail(session, user.visible, settings.ray_dashboard_public_url)
