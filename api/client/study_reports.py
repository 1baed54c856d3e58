"""The client's calls about what a study has found."""

from pathlib import Path
from typing import Literal

from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, download, get, get_text, path
from service.contract.study_report import StudyReport

ReportForm = Literal["json", "md", "tex", "csv", "parquet"]
CountsForm = Literal["csv", "parquet"]
_REPORTS: dict[str, str] = {"json": "report"} | {form: f"report.{form}" for form in ("md", "tex", "csv", "parquet")}
_TIMEOUT_S = 300.0
"""Of the first reading of a large report."""


class StudyReportCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def study_report(self, study_id: str) -> Request[StudyReport]:
        """The report as of now; a large study may take the service a minute the first time."""
        return get(StudyReport, path("studies", study_id, "report"), timeout_s=_TIMEOUT_S)

    @call
    def download_study_report(self, study_id: str, form: ReportForm, target: Path) -> Request[None]:
        """Write the report in one of its forms to `target`, a file that appears when it is whole."""
        return download(path("studies", study_id, _REPORTS[form]), target)

    @call
    def study_report_text(self, study_id: str, form: Literal["json", "md", "tex", "csv"] = "md") -> Request[str]:
        """The report as text."""
        return get_text(path("studies", study_id, _REPORTS[form]), timeout_s=_TIMEOUT_S)

    @call
    def download_study_counts(self, study_id: str, form: CountsForm, target: Path) -> Request[None]:
        """Write the counts of right samples by run, point, set and prompt to `target`."""
        return download(path("studies", study_id, f"counts.{form}"), target)

    @call
    def download_study_spec(self, study_id: str, target: Path) -> Request[None]:
        """Write the study's specification as YAML to `target`, to be submitted again."""
        return download(path("studies", study_id, "spec.yaml"), target)
