"""The control plane beside its peer and its own targets: `python -m bench.control_plane [--json FILE] [--rows NAME …]`.

    ingest_points_per_s_vs_mlflow, bytes_per_point_vs_mlflow    against MLflow's server on the same PostgreSQL
    submissions_per_s, experiments_of_50_equal_requests         with validation; two replicas of the API
    live_point_ms_p50, live_point_ms_p99                        worker to 200 watchers of one experiment
    series_200k_ms_best, series_200k_ms_p50                     a plot of 200,000 points
    first_line_s_vs_plain_ray_job                               submission to the driver's first line, on a local stack

MLflow lives in an environment of its own (bench/peers_control_plane.txt). A ratio is ours by the peer's, both from one
run: above 1 is better for the rate, below 1 for the bytes. Everything else is a number with its target.
"""

import argparse
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from bench import first_line, ingest, live, submissions
from bench.rows import Row
from bench.servers import Database, Service, postgres, service

logger = logging.getLogger(__name__)

REPLICAS = 2
PEERS_PYTHON = Path(".venv-peers/bin/python")
TARGETS = {
    "submissions_per_s": "at least 200",
    "experiments_of_50_equal_requests": "exactly 1",
    "live_point_ms_p50": "",
    "live_point_ms_p99": "below 300",
    "series_200k_ms_best": "below 20",
    "series_200k_ms_p50": "",
}
GROUPS: dict[str, Callable[[Service, argparse.Namespace], dict[str, float]]] = {
    "submissions": lambda one, given: submissions.rows(one, count=given.submissions),
    "live": lambda one, _: live.live_ms(one),
    "plot": lambda one, _: live.plot_ms(one),
}


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = ("ingest", *GROUPS, "first_line")
    parser.add_argument("--rows", nargs="+", choices=groups, default=groups, metavar="GROUP", help=" ".join(groups))
    parser.add_argument("--calls", type=int, default=20, help="of each of the 16 clients to the service")
    parser.add_argument("--peer-calls", type=int, default=4, help="of each of the 16 clients to MLflow")
    parser.add_argument("--submissions", type=int, default=800)
    parser.add_argument("--peers", type=Path, default=PEERS_PYTHON, help="the interpreter that has MLflow")
    parser.add_argument("--json", type=Path, help="file for the rows")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logger.setLevel(logging.INFO)
    with postgres() as database:
        found = run(database, given)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def run(database: Database, given: argparse.Namespace) -> dict[str, object]:
    """All wanted rows, logged as they come."""
    logger.info("%d replicas of the API, load %.1f on %d cores", REPLICAS, os.getloadavg()[0], os.cpu_count() or 0)
    found: dict[str, object] = {}
    with service(database, replicas=REPLICAS) as one:
        # First: it counts all points and bytes of the tables.
        if "ingest" in given.rows:
            found |= _shown(ingest.rows(database, one, given.peers, calls=given.calls, peer_calls=given.peer_calls))
        for name in [name for name in GROUPS if name in given.rows]:
            for row, value in GROUPS[name](one, given).items():
                logger.info("%-36s %12.1f   %s", row, value, TARGETS[row])
                found[row] = {"value": value, "target": TARGETS[row]}
    if "first_line" in given.rows:
        found |= _shown(first_line.rows())
    return found


def _shown(rows: dict[str, Row]) -> dict[str, object]:
    for name, row in rows.items():
        _show(name, row)
    return {name: row.as_json() for name, row in rows.items()}


def _show(name: str, row: Row) -> None:
    logger.info("%-36s %12.1f ours %12.1f peer   ratio %8.3f %s", name, row.ours, row.peer, row.ratio, row.unit)


if __name__ == "__main__":
    main()
