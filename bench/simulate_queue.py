"""A month of a large team in minutes: `python -m bench.simulate_queue [--json FILE] [--experiments N] ...`.

    utilisation     GPU-seconds used until the last submission, by those that the best possible server would have used:
                    one that splits experiments at will and is never idle while there is work
    waiting         from submission to first start, by class
    fairness        Jain's index over users who wanted more than an equal part: what each got by what a max-min fair
                    division of the used GPU-seconds would have given him (1 is perfectly fair)
    pass            CPU time of one decision, and of one over 10,000 queued experiments on a full cluster

Nothing of the service runs but its pure decision.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

from bench.queue_simulator import Life, Record, Simulator
from bench.queue_workload import Job, cluster, draw_jobs
from service.scheduler.decision import Situation, decide
from service.scheduler.decision.facts import Cluster, RunningAttempt

logger = logging.getLogger(__name__)

CLASSES = ("urgent", "high", "normal", "low", "backfill")
_PASS_QUEUE = 10_000


def utilisation(record: Record, jobs: Sequence[Job], num_gpus: int) -> float:
    """Used by best possible, until the last submission."""
    last = jobs[-1].entry.queued_at
    used = max((done for at, done in record.done if at <= last), default=0.0)
    # What still runs then has used its part as well.
    used += sum(
        life.job.num_gpus * (last - life.first_start)
        for life in record.lives.values()
        if life.first_start is not None
        and life.first_start < last
        and life.num_preempted == 0
        and (life.ended_at is None or life.ended_at > last)
    )
    return used / _best_possible(jobs, num_gpus, last)


def _best_possible(jobs: Sequence[Job], num_gpus: int, until: float) -> float:
    """GPU-seconds of a server that is never idle while there is work."""
    backlog = done = at = 0.0
    for job in jobs:
        worked = min(backlog, num_gpus * (job.entry.queued_at - at))
        done, backlog, at = done + worked, backlog - worked, job.entry.queued_at
        backlog += job.num_gpus * job.runtime_s
    return done + min(backlog, num_gpus * (until - at))


def waits(lives: Sequence[Life]) -> dict[str, dict[str, float]]:
    """Hours by class: median, 95 % quantile, longest."""
    found: dict[str, dict[str, float]] = {}
    for rank, name in enumerate(CLASSES):
        hours = sorted(
            (life.first_start - life.job.entry.queued_at) / 3600
            for life in lives
            if life.job.entry.priority_rank == rank and life.first_start is not None
        )
        if len(hours) >= 2:
            found[name] = {"median_h": median(hours), "p95_h": quantiles(hours, n=20)[-1], "longest_h": hours[-1]}
    return found


def fairness(record: Record, until: float) -> float:
    """Jain's index over users who wanted more than an equal part of what was used until then."""
    wanted: dict[str, float] = {}
    got: dict[str, float] = {}
    for life in record.lives.values():
        job = life.job
        if job.entry.queued_at > until:
            continue
        wanted[job.entry.user] = wanted.get(job.entry.user, 0.0) + job.num_gpus * job.runtime_s
        if life.first_start is not None and life.first_start < until:
            ran_s = min(until, life.ended_at or until) - life.first_start
            got[job.entry.user] = got.get(job.entry.user, 0.0) + job.num_gpus * min(ran_s, job.runtime_s)
    fair = max_min(wanted, sum(got.values()))
    contended = [got.get(user, 0.0) / fair[user] for user in wanted if wanted[user] > fair[user] * 1.001]
    return jain(contended) if contended else 1.0


def max_min(wanted: dict[str, float], total: float) -> dict[str, float]:
    """The division in which nobody could get more without taking from one who has less."""
    shares: dict[str, float] = {}
    left = sorted(wanted.items(), key=lambda item: item[1])
    while left:
        equal = total / len(left)
        user, wish = left.pop(0)
        shares[user] = min(wish, equal)
        total -= shares[user]
    return shares


def jain(values: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2): 1 if all are equal, 1/n if one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def one_pass(num_gpus: int, *, rounds: int = 5) -> dict[str, float]:
    """Seconds of CPU and of the clock for a decision over 10,000 queued experiments, the median of some rounds."""
    nodes = cluster(num_gpus)
    jobs = draw_jobs(2 * _PASS_QUEUE, num_users=200, num_gpus=num_gpus, load=1e6, seed=5)
    entries = [job.entry for job in jobs]
    now = max(entry.queued_at for entry in entries) + 1.0
    first = decide(Situation(now=now, queue=entries[_PASS_QUEUE:], cluster=Cluster(nodes=nodes)))
    by_id = {job.entry.id: job for job in jobs}
    running = [
        RunningAttempt(
            id=admission.id,
            experiment_id=admission.id,
            project=by_id[admission.id].entry.project,
            user=by_id[admission.id].entry.user,
            priority_rank=by_id[admission.id].entry.priority_rank,
            placement=admission.placement,
            started_at=now,
            ends_at=now + by_id[admission.id].entry.max_runtime_s,
            preemptible=by_id[admission.id].preemptible,
        )
        for admission in first.admissions
    ]
    situation = Situation(now=now + 600, queue=entries[:_PASS_QUEUE], running=running, cluster=Cluster(nodes=nodes))
    cpu, wall = [], []
    for _ in range(rounds):
        began_cpu, began = time.process_time(), time.perf_counter()
        decide(situation)
        cpu.append(time.process_time() - began_cpu)
        wall.append(time.perf_counter() - began)
    return {"cpu_s": median(cpu), "wall_s": median(wall), "best_wall_s": min(wall)}


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=4096)
    parser.add_argument("--load", type=float, default=1.05, help="asked for, by what the cluster has")
    parser.add_argument("--step", type=float, default=60.0, help="seconds between two passes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures = run(arguments)
    logger.info("%s", json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    passes = one_pass(arguments.gpus)
    jobs = draw_jobs(
        arguments.experiments,
        num_users=arguments.users,
        num_gpus=arguments.gpus,
        load=arguments.load,
        seed=arguments.seed,
    )
    began = time.monotonic()
    record = Simulator(jobs, cluster(arguments.gpus), step_s=arguments.step).run()
    longest = max(record.decide_s, key=lambda found: found[0])
    return {
        "experiments": len(jobs),
        "users": arguments.users,
        "gpus": arguments.gpus,
        "load": arguments.load,
        "all_ended": all(life.ended_at is not None for life in record.lives.values()),
        "simulated_days": record.done[-1][0] / 86400,
        "utilisation_of_best_possible": utilisation(record, jobs, arguments.gpus),
        "waiting": waits(list(record.lives.values())),
        "fairness_jain": fairness(record, jobs[-1].entry.queued_at),
        "num_preempted": sum(life.num_preempted for life in record.lives.values()),
        "passes": len(record.decide_s),
        "pass_cpu_s_median": median(seconds for _, seconds in record.decide_s),
        "longest_queue": longest[0],
        "pass_over_10000_queued": passes,
        "took_s": time.monotonic() - began,
    }


if __name__ == "__main__":
    main()
