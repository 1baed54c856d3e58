"""The cluster's page, made from the same answer as its JSON twin."""

from fastapi import APIRouter, Request, Response

from api.cluster_schemas import NodeOut
from api.deps import CurrentUser, SessionDep, SettingsDep
from api.routers.cluster import show_cluster
from api.web.page_routes import PageRoute, templates

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/cluster")
async def cluster_page(request: Request, user: CurrentUser, session: SessionDep, settings: SettingsDep) -> Response:
    """Nodes beside our ledger, actors of running experiments, schedulers and the API."""
    cluster = await show_cluster(user, session, settings)
    is_proxied = user.governs and request.app.state.ray_proxy is not None
    context = {
        "user": user.name,
        "detail": cluster,
        "dashboard": "/ray/" if is_proxied else cluster.ray_dashboard_url,
        "node_names": {node.id: node_name(node) for node in cluster.nodes},
        "node_name": node_name,
        "disagreement": disagreement,
    }
    return templates.TemplateResponse(request, "cluster.html", context)


def node_name(node: NodeOut) -> str:
    """As people call it: by its address, else by the start of its long id."""
    return node.name or (node.id[:12] if node.id else "unknown node")


def disagreement(node: NodeOut) -> str:
    """Where Ray's placement groups and our ledger differ on a node, in words; empty where they agree.

    Seconds of difference are usual: the ledger counts what is about to start and what Ray has not been seen to let go.
    """
    if not node.is_alive:
        return "Ray does not have this node any more; what it held is taken back when its experiments have ended"
    if node.ray_cpus_held is None or node.ray_gpus_held is None:
        return "Ray has not told what its placement groups hold"
    cpus, gpus = node.ray_cpus_held - node.num_cpus_taken, node.ray_gpus_held - node.num_gpus_taken
    if abs(cpus) < 1e-6 and abs(gpus) < 1e-6:
        return ""
    if cpus > 0 or gpus > 0:
        return f"Ray holds {max(cpus, 0):g} CPUs and {max(gpus, 0):g} GPUs more than our ledger: somebody else's"
    return f"our ledger counts {-min(cpus, 0):g} CPUs and {-min(gpus, 0):g} GPUs more: starting, or not yet let go"
