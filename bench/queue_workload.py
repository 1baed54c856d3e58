"""What a team submits to a large cluster, drawn from a seed: sizes, times, classes and users."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from service.scheduler.decision.facts import Node, QueueEntry
from service.scheduler.decision.resources import Demand, Resources, RoleDemand

GPUS_PER_NODE = 8
CPUS_PER_NODE = 128
NUM_PROJECTS = 20
_SIZES = ((1, 30), (2, 20), (4, 18), (8, 18), (16, 7), (32, 4), (64, 2), (128, 0.8), (256, 0.2))
"""GPUs of an experiment, and how often."""
_CLASSES = ((0, 1), (1, 9), (2, 60), (3, 20), (4, 10))
"""Class (0 is urgent) and how often."""
_MEDIAN_S = 3600.0
_SIGMA = 1.0
_LONGEST_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Job:
    """An experiment that will be submitted."""

    entry: QueueEntry
    runtime_s: float
    """What it really takes; `max_runtime_s` is what its user asked for, to be safe."""
    num_gpus: int
    preemptible: bool


def cluster(num_gpus: int) -> tuple[Node, ...]:
    """Nodes of eight GPUs."""
    total = Resources.supply(CPUS_PER_NODE, GPUS_PER_NODE)
    return tuple(
        Node(id=f"node-{number:04}", total=total, gpu_type="H100") for number in range(num_gpus // GPUS_PER_NODE)
    )


def draw_jobs(
    number: int, *, num_users: int, num_gpus: int, load: float, seed: int, demands: dict[int, Demand] | None = None
) -> list[Job]:
    """In the order of their submission, which is spread so that they ask for `load` times what the cluster has.

    Users differ: how often one submits follows a geometric law, the busiest about a hundred times the calmest.
    """
    rng = random.Random(seed)
    shared = demands if demands is not None else {}
    users = [f"user-{index:03}" for index in range(num_users)]
    weights = [100 ** (-index / max(num_users - 1, 1)) for index in range(num_users)]
    sizes = [_pick(rng, _SIZES) for _ in range(number)]
    times = [min(rng.lognormvariate(math.log(_MEDIAN_S), _SIGMA), _LONGEST_S) for _ in range(number)]
    work = sum(size * time for size, time in zip(sizes, times, strict=True))
    period = work / (num_gpus * load)
    moments = sorted(rng.uniform(0.0, period) for _ in range(number))
    return [
        _job(rng, index, moments[index], sizes[index], times[index], rng.choices(users, weights)[0], shared)
        for index in range(number)
    ]


def demand_of(size: int, shared: dict[int, Demand]) -> Demand:
    """Up to a node: trainer ranks and one rollout engine. Beyond it: an eighth of the GPUs for engines."""
    if size not in shared:
        bundle = Resources.demand(8, 1)
        engines = 0 if size == 1 else max(1, size // 8)
        roles = [RoleDemand(role="trainer", bundle=bundle, count=size - engines)]
        if engines:
            roles.append(RoleDemand(role="rollout", bundle=bundle, count=engines))
        shared[size] = Demand(roles=tuple(roles))
    return shared[size]


def _job(
    rng: random.Random, index: int, at: float, size: int, runtime_s: float, user: str, shared: dict[int, Demand]
) -> Job:
    rank = _pick(rng, _CLASSES)
    asked_s = min(runtime_s * rng.uniform(1.1, 4.0), 2 * _LONGEST_S)
    entry = QueueEntry(
        id=f"exp-{index:06}",
        project=f"project-{int(user[-3:]) % NUM_PROJECTS:02}",
        user=user,
        priority_rank=rank,
        queued_at=at,
        demand=demand_of(size, shared),
        max_runtime_s=max(asked_s, runtime_s),
    )
    return Job(entry=entry, runtime_s=runtime_s, num_gpus=size, preemptible=rank >= 3)


def _pick(rng: random.Random, choices: Sequence[tuple[int, float]]) -> int:
    return rng.choices([value for value, _ in choices], [weight for _, weight in choices])[0]
