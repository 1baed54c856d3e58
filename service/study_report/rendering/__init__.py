"""A report in the forms in which people take it along: Markdown, LaTeX, and rows for CSV and Parquet."""

from service.study_report.rendering.counts import counts_csv, counts_parquet
from service.study_report.rendering.latex import report_latex
from service.study_report.rendering.markdown import report_markdown
from service.study_report.rendering.rows import report_csv, report_parquet

__all__ = ["counts_csv", "counts_parquet", "report_csv", "report_latex", "report_markdown", "report_parquet"]
