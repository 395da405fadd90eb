"""Reports in every format."""

from __future__ import annotations

from collections.abc import Mapping

from service.reports.html import render_html
from service.reports.table import render_csv
from service.schemas.report import ReportFormat, ReportLanguage
from service.serving.export_formats import MEDIA_TYPES
from service.serving.reports import IllustratedReport

REPORT_MEDIA_TYPES: Mapping[ReportFormat, str] = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "csv": MEDIA_TYPES["csv"],
}


def render(report: IllustratedReport, format_name: ReportFormat, language: ReportLanguage) -> bytes:
    """Return a report as a file.

    Args:
        report: The report.
        format_name: Format of the file.
        language: Language of an HTML page. The other formats are the same in every language.
    """
    if format_name == "html":
        return render_html(report, language).encode()
    if format_name == "csv":
        return render_csv(report.content)
    return report.content.model_dump_json(indent=2).encode() + b"\n"
