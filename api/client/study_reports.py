"""The client's calls about what a study has found."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from api.client.requests import Requests
from service.contract.study_report import StudyReport

ReportForm = Literal["json", "md", "tex", "csv", "parquet"]
CountsForm = Literal["csv", "parquet"]


class StudyReportCalls(Requests):
    """A part of `SedrayClient`."""

    def study_report(self, study_id: str) -> StudyReport:
        """The report as of now; a large study may take the service a minute the first time."""
        return self._get(StudyReport, f"/studies/{study_id}/report", timeout_s=300.0)

    def download_study_report(self, study_id: str, form: ReportForm, target: Path) -> None:
        """Write the report in one of its forms to `target`, a file that appears when it is whole."""
        self._download(f"/studies/{study_id}/report{'' if form == 'json' else f'.{form}'}", {}, target)

    def study_report_text(self, study_id: str, form: Literal["json", "md", "tex", "csv"] = "md") -> str:
        """The report as text."""
        with TemporaryDirectory() as folder:
            target = Path(folder) / "report"
            self.download_study_report(study_id, form, target)
            return target.read_text("utf-8")

    def download_study_counts(self, study_id: str, form: CountsForm, target: Path) -> None:
        """Write the counts of right samples by run, point, set and prompt to `target`."""
        self._download(f"/studies/{study_id}/counts.{form}", {}, target)

    def download_study_spec(self, study_id: str, target: Path) -> None:
        """Write the study's specification as YAML to `target`, to be submitted again."""
        self._download(f"/studies/{study_id}/spec.yaml", {}, target)
