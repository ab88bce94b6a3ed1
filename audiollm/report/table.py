"""The scores as a table for the terminal; it fits into 80 columns with one further test beside the main one.

Not here: the same scores as a page (html.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audiollm.report.figures import interval, metric_note, percent

Tasks = Mapping[str, Mapping[str, Any]]
"""Scores by task, in the form of results.json: {name: {"metric", "score", "blind", "prior", "n", "ci95", ...}}."""


def score_table(tasks: Tasks, further: Mapping[str, Tasks] | None = None, *, title: str | None = None) -> Table:
    """Task by task: with audio, without, the commonest answer; the scores of `further` tests beside them."""
    notes = "\n".join(filter(None, (_note(name, task) for name, task in tasks.items())))
    table = Table(title=title and escape(title), caption=notes or None, box=box.SIMPLE_HEAD)
    table.title_justify = table.caption_justify = "left"
    table.add_column("task", no_wrap=True)
    for heading in ("n", "with audio", "95% interval", "without audio", "commonest answer", *(further or {})):
        words = escape(heading).replace(" ", "\n", 1)
        table.add_column(words, justify="right", style="bold" if heading == "with audio" else "", vertical="bottom")
    for name, task in tasks.items():
        beside = [percent(other.get(name, {}).get("score")) for other in (further or {}).values()]
        figures = (percent(task["score"]), interval(task["ci95"]), percent(task["blind"]), percent(task["prior"]))
        mark = " ↓" if metric_note(task["metric"]).lower_is_better else ""
        table.add_row(escape(name) + mark, str(task["n"]), *figures, *beside)
    return table


def _note(name: str, task: Mapping[str, Any]) -> str:
    """What the score of a task means, where it is not simply the share of right answers."""
    notes = [] if task["metric"] == "exact" else [metric_note(task["metric"]).words]
    if task.get("yes_recall") is not None or task.get("no_recall") is not None:
        recalls = (percent(task.get("yes_recall")), percent(task.get("no_recall")))
        notes.append("right when the answer is yes: {}, no: {}".format(*recalls))
    return f"{escape(name)}: {'; '.join(notes)}" if notes else ""


def print_scores(
    tasks: Tasks,
    further: Mapping[str, Tasks] | None = None,
    *,
    title: str | None = None,
    remarks: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Print the table, and the remarks below it."""
    console = console or Console()
    console.print(score_table(tasks, further, title=title))
    for remark in remarks:
        console.print(f"[yellow]![/yellow] {escape(remark)}")
