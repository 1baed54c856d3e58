"""What a sweep job is told to look for, and what it tells of it: between the scheduler and `workers.sweeper`."""

from service.contract.strict_model import WireModel

ORDERS_VARIABLE = "SEDRAY_SWEEP"
"""Environment variable with the orders as JSON."""
ATTEMPT_VARIABLE = "SEDRAY_ATTEMPT_ID"
"""Environment variable that a driver and every process below it or its actors have: whose they are."""
REPORT_MARK = "SEDRAY-SWEPT "
"""Begins the line in the job's log that holds its report as JSON."""


class NamedActor(WireModel):
    """An actor that can be called by its name."""

    name: str
    namespace: str


class SweepOrders(WireModel):
    """What must not live any more."""

    attempt_ids: list[str]
    """Ended attempts; every process of theirs is ended."""
    actors: list[NamedActor] = []
    placement_groups: list[str] = []
    """Hexadecimal ids."""


class SweptProcess(WireModel):
    """A process that outlived its attempt."""

    node: str
    pid: int
    attempt_id: str
    command: str


class SweepReport(WireModel):
    """What was found and ended."""

    processes: list[SweptProcess] = []
    actors: list[str] = []
    placement_groups: list[str] = []
    unreached_nodes: list[str] = []
    """Nodes on which nobody could look."""

    def describe(self, attempt_id: str) -> str:
        """For people, about one attempt; empty if nothing of it was left."""
        commands = [f"{one.command} (process {one.pid} on {one.node})" for one in self.processes]
        own = [text for text, one in zip(commands, self.processes, strict=True) if one.attempt_id == attempt_id]
        actors = [name for name in self.actors if attempt_id in name]
        return "; ".join([*own, *(f"actor {name}" for name in actors)])
