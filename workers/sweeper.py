"""`python -m workers.sweeper`: one Ray job that ends what ended attempts have left on the cluster.

    named actors, placement groups   through Ray
    processes                        on every node, by the attempt's id in their environment: a driver that Ray lost
                                     sight of, a vLLM engine that outlived its actor

The scheduler says what is over; nothing else is touched. Whatever cannot be ended is told, and left to the next sweep.
"""

import logging
import os
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, PlacementGroupID, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from service.contract.sweeping import (
    ATTEMPT_VARIABLE,
    ORDERS_VARIABLE,
    REPORT_MARK,
    NamedActor,
    SweepOrders,
    SweepReport,
    SweptProcess,
)

logger = logging.getLogger(__name__)

NODES_S = 40.0
"""For all nodes together; one that does not answer is left out."""
GRACE_S = 3.0
_COMMAND_CHARACTERS = 120


def main() -> int:
    """Sweep, print the report, and say whether every node was reached."""
    orders = SweepOrders.model_validate_json(os.environ[ORDERS_VARIABLE])
    ray.init(address="auto", namespace="sedray-sweep", logging_level=logging.WARNING)
    actors = [actor.name for actor in orders.actors if _end_actor(actor)]
    groups = [group for group in orders.placement_groups if _remove_group(group)]
    processes, unreached = _sweep_nodes(orders.attempt_ids)
    report = SweepReport(processes=processes, actors=actors, placement_groups=groups, unreached_nodes=unreached)
    sys.stdout.write(f"{REPORT_MARK}{report.model_dump_json()}\n")
    sys.stdout.flush()
    return 0


def end_processes(attempt_ids: Collection[str], *, grace_s: float = GRACE_S) -> list[SweptProcess]:
    """End every process on this machine that belongs to one of the attempts; asked first, then killed."""
    found = dict(_processes_of(attempt_ids))
    told = [_describe(process, attempt_id) for process, attempt_id in found.items()]
    for process in found:
        with suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs([*found], timeout=grace_s)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=grace_s)
    return told


def _processes_of(attempt_ids: Collection[str]) -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            owner = process.environ().get(ATTEMPT_VARIABLE)
            if owner is None or owner not in attempt_ids or process.pid == os.getpid():
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process, owner


def _describe(process: psutil.Process, attempt_id: str) -> SweptProcess:
    command = "?"
    with suppress(psutil.Error):
        command = " ".join(process.cmdline())[:_COMMAND_CHARACTERS] or process.name()
    return SweptProcess(node=socket.gethostname(), pid=process.pid, attempt_id=attempt_id, command=command)


def _sweep_nodes(attempt_ids: Collection[str]) -> tuple[list[SweptProcess], list[str]]:
    """What was ended on all nodes, and the nodes that did not answer."""
    if not attempt_ids:
        return [], []
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    remote = ray.remote(num_cpus=0, max_retries=0)(end_processes)
    calls = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(attempt_ids): node
        for node in nodes
    }
    ready, late = ray.wait([*calls], num_returns=len(calls), timeout=NODES_S)
    processes, unreached = [], [calls[ref] for ref in late]
    for ref in ready:
        try:
            processes += ray.get(ref, timeout=NODES_S)
        except (RayError, GetTimeoutError):
            unreached.append(calls[ref])
    return processes, unreached


def _end_actor(actor: NamedActor) -> bool:
    try:
        ray.kill(ray.get_actor(actor.name, namespace=actor.namespace), no_restart=True)
    except ValueError:
        return False  # it is gone
    return True


def _remove_group(group_id: str) -> bool:
    try:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group_id))))
    except (RayError, ValueError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
