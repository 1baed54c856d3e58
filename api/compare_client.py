"""The client's call that puts experiments side by side."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from api.client_requests import Requests
from service.contract.comparison import Comparison


class CompareCalls(Requests):
    """A part of `SedrayClient`."""

    def compare(
        self,
        ids: Sequence[str] = (),
        *,
        study: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        project: str | None = None,
        by: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Comparison:
        """Experiments in groups: results and series with means and intervals over seeds.

        `by` are dotted paths of the specification, or `arm`; None groups by what differs but seeds, () not at all.
        """
        query = _query(ids, study=study, tag=tag, name=name, project=project, by=by, metrics=metrics)
        return self._get(Comparison, "/compare", query, timeout_s=120.0)

    def compare_text(self, ids: Sequence[str] = (), *, form: Literal["csv", "md"], **options: Any) -> str:
        """The same as CSV or Markdown; `options` are those of `compare`."""
        with TemporaryDirectory() as folder:
            target = Path(folder) / "comparison"
            self._download(f"/compare.{form}", _query(ids, **options), target)
            return target.read_text("utf-8")


def _query(
    ids: Sequence[str], *, by: Sequence[str] | None = None, metrics: Sequence[str] | None = None, **chosen: str | None
) -> dict[str, Any]:
    query = {
        "ids": ",".join(ids) or None,
        **chosen,
        "by": None if by is None else ",".join(by),
        "metric": None if metrics is None else ",".join(metrics),
    }
    return {name: value for name, value in query.items() if value is not None}
