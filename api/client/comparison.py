"""The client's calls that put experiments side by side."""

from collections.abc import Sequence
from typing import Any, Literal

from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, get, given, path
from service.contract.comparison import Comparison

_TIMEOUT_S = 120.0


class ComparisonCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
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
    ) -> Request[Comparison]:
        """Experiments in groups: results and series with means and intervals over seeds.

        `by` are dotted paths of the specification, or `arm`; None groups by what differs but seeds, () not at all.
        """
        query = _query(ids, by, metrics, study=study, tag=tag, name=name, project=project)
        return get(Comparison, path("compare"), query, timeout_s=_TIMEOUT_S)

    @call
    def compare_text(
        self,
        form: Literal["csv", "md"],
        ids: Sequence[str] = (),
        *,
        study: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        project: str | None = None,
        by: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Request[str]:
        """The same as CSV or Markdown."""
        query = _query(ids, by, metrics, study=study, tag=tag, name=name, project=project)
        return Request(
            read=bytes.decode,
            method="GET",
            path=path(f"compare.{form}"),
            params=query,
            timeout_s=_TIMEOUT_S,
            may_repeat=True,
        )


def _query(
    ids: Sequence[str], by: Sequence[str] | None, metrics: Sequence[str] | None, **chosen: str | None
) -> dict[str, Any]:
    return given(
        ids=",".join(ids) or None,
        **chosen,
        by=None if by is None else ",".join(by),
        metric=None if metrics is None else ",".join(metrics),
    )
