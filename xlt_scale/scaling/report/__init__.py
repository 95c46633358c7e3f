"""The report of a study: one page that answers the question, figures and tables for a paper, what is behind them."""

from xlt_scale.scaling.report.write import write_report

__all__ = ["write_report"]
