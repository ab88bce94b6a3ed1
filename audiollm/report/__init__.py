"""What a run found, shown to people: a page in one file, a table in the terminal."""

from audiollm.report.examples import Example, choose_examples
from audiollm.report.html import ReportData, write_report
from audiollm.report.table import print_scores, score_table

__all__ = ["Example", "ReportData", "choose_examples", "print_scores", "score_table", "write_report"]
