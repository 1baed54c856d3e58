"""Calls about one experiment's course, where it comes from, and what it left behind and took."""

from pathlib import Path

from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, download, get, path
from api.output_schemas import OutputPage, Spend
from api.specification_schemas import Lineage, SpecificationOut
from api.timeline_schemas import Timeline


class CourseCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def timeline(self, experiment_id: str) -> Request[Timeline]:
        """When it waited and ran, which attempt was at which stage, and what happened on the way."""
        return get(Timeline, path("experiments", experiment_id, "timeline"))

    @call
    def specification(self, experiment_id: str, *, against: str | None = None) -> Request[SpecificationOut]:
        """As submitted, as it runs, and what differs from `against`; without it, from its pattern or its baseline."""
        return get(SpecificationOut, path("experiments", experiment_id, "specification"), {"against": against})

    @call
    def lineage(self, experiment_id: str) -> Request[Lineage]:
        """Where it comes from, what was made of it, and digests of its data and code."""
        return get(Lineage, path("experiments", experiment_id, "lineage"))

    @call
    def spend(self, experiment_id: str) -> Request[Spend]:
        """What it took so far, in device-seconds."""
        return get(Spend, path("experiments", experiment_id, "spend"))

    @call
    def checkpoints(self, experiment_id: str) -> Request[OutputPage]:
        """Checkpoints and exported models that lie in the experiment's folder now, with their files."""
        return get(OutputPage, path("experiments", experiment_id, "checkpoints"))

    @call
    def download_checkpoint(
        self, experiment_id: str, output_id: str, target: Path, *, file: str | None = None
    ) -> Request[None]:
        """Write a checkpoint or a model as a tar, or one `file` of it as the list names it; appears when it is whole.

        It is sent in one piece: `download_model` takes a model file by file, and goes on where it broke off.
        """
        where = path("experiments", experiment_id, "checkpoints", output_id)
        if file is None:
            return download(f"{where}/archive", target)
        return download(f"{where}/file", target, {"path": file})
