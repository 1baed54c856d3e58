"""Use of the cluster, forgotten by half in each half-life: what it is, and what it costs in the order of the queue.

    rate     weighted resources: sum of GPUs x weight of their kind, or CPUs x their weight where there is no GPU
    usage    sum over time of rate x 2^(-age / half_life), in weighted seconds
    penalty  rate x min(max_runtime, half_life / 8): counts from admission on, until more has really been used

Without the penalty a user whose use is low could have everything admitted before any of it is seen.
"""

from collections.abc import Mapping
from math import log

from service.scheduler.decision.facts import Policy
from service.scheduler.decision.resources import UNITS, Demand, Placement, Resources


def demand_rate(demand: Demand, policy: Policy) -> float:
    """Of an experiment that has no place yet: of several kinds of GPU that it may get, the first named counts."""
    kinds = {role.gpu_types[0] if role.gpu_types else "": role for role in demand.roles}
    if len(kinds) == 1:
        return _rate(demand.total, {next(iter(kinds)): demand.total.gpus}, policy)
    gpus: dict[str, int] = {}
    for role in demand.roles:
        kind = role.gpu_types[0] if role.gpu_types else ""
        gpus[kind] = gpus.get(kind, 0) + role.bundle.gpus * role.count
    return _rate(demand.total, gpus, policy)


def placement_rate(placement: Placement, kind_of: Mapping[str, str], policy: Policy) -> float:
    """Of bundles on nodes, of which `kind_of` tells the kind of GPU."""
    gpus: dict[str, int] = {}
    cpus = 0
    for bundle in placement:
        kind = kind_of.get(bundle.node, "")
        gpus[kind] = gpus.get(kind, 0) + bundle.resources.gpus
        cpus += bundle.resources.cpus
    return _rate(Resources(cpus=cpus, gpus=sum(gpus.values())), gpus, policy)


def entry_penalty(rate: float, max_runtime_s: float, policy: Policy) -> float:
    """What counts from the moment of admission, in weighted seconds."""
    return rate * min(max_runtime_s, policy.half_life_s / 8)


def decayed(value: float, age_s: float, half_life_s: float) -> float:
    """What is left of a use of `age_s` seconds ago."""
    return float(value * 2.0 ** (-max(age_s, 0.0) / half_life_s))


def used(rate: float, duration_s: float, half_life_s: float) -> float:
    """What a steady use counts at its end: the integral of rate x 2^(-t / half_life) over its duration."""
    duration_s = max(duration_s, 0.0)
    return float(rate * half_life_s / log(2) * (1 - 2.0 ** (-duration_s / half_life_s)))


def fair_share_factor(usage_part: float, share_part: float) -> float:
    """2^(-(part of the use) / (part of the shares)): 1 for one who used nothing, 1/2 for one who used his part."""
    return float(2.0 ** (-usage_part / share_part)) if share_part > 0 else 0.0


def _rate(total: Resources, gpus_by_kind: Mapping[str, int], policy: Policy) -> float:
    if total.gpus == 0:
        return total.cpus / UNITS * policy.cpu_weight
    return sum(gpus / UNITS * policy.gpu_weights.get(kind, 1.0) for kind, gpus in gpus_by_kind.items())
