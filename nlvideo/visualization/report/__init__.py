"""One self-contained page that tells what a run did, or how several runs compare."""

from nlvideo.visualization.report.page import render_report, try_write_report, write_report

__all__ = ["render_report", "try_write_report", "write_report"]
