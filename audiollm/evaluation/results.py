"""What an evaluation found: a score for each task and every single answer; and the file that keeps the scores.

Not here: how it was found (run.py), how it is shown (audiollm/report).
Scores are fractions: 0.95 is 95 %. A word error rate is a fraction too, is better when lower, and may exceed 1.
"""

import json
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiollm.conversation import Row
from audiollm.data.sources import Problems
from audiollm.files import write_whole
from audiollm.report.examples import Example


@dataclass(frozen=True)
class ScoredAnswer:
    """One row, what the model said with the audio and without, and what both are worth."""

    row: Row
    task: str
    prediction: str
    """The raw output; empty where there is an `error`."""
    score: float
    """0..1 for exact and f1, the word error rate of this answer for wer."""
    correct: bool
    error: str | None = None
    """Why no answer could be made; it counts as a wrong one."""
    truncated: bool = False
    blind_prediction: str | None = None
    blind_correct: bool | None = None

    @property
    def example(self) -> Example:
        """The answer as the report shows it."""
        return Example(
            self.row, self.error or self.prediction, self.correct, self.blind_prediction, self.blind_correct, self.task
        )


@dataclass(frozen=True)
class TaskScore:
    """The score of one task, beside what is reached without listening."""

    metric: str
    score: float
    prior: float
    """What always giving the commonest right answer of these rows scores."""
    n: int
    ci95: tuple[float, float]
    blind: float | None = None
    """The score with the audio left out; None where that was not asked."""
    yes_recall: float | None = None
    no_recall: float | None = None
    unparsed: float | None = None
    """Share of answers that could not be read as yes or no, or as one of the options; they count as wrong."""
    errors: int = 0
    """Rows that could not be asked, such as those with a broken clip; they count as wrong."""
    truncated: int = 0
    """Answers that `max_new_tokens` ended."""

    def to_json(self) -> dict[str, Any]:
        """The figures as they are written to results.json."""
        figures: dict[str, Any] = {name: getattr(self, name) for name in ("metric", "score", "blind", "prior", "n")}
        figures["ci95"] = list(self.ci95)
        if self.yes_recall is not None or self.no_recall is not None:
            figures |= {"yes_recall": self.yes_recall, "no_recall": self.no_recall}
        return figures


@dataclass(frozen=True)
class EvaluationResult:
    """The scores by task, in the order in which the tasks first occur, and all answers in the order of the rows."""

    tasks: dict[str, TaskScore]
    answers: tuple[ScoredAnswer, ...] = ()
    problems: Problems = field(default_factory=Problems)
    """Rows that could not be read, so that nothing was asked about them."""
    notes: tuple[str, ...] = ()
    """What else a reader should know, in words."""

    @property
    def examples(self) -> list[Example]:
        """Every answer, ready for `report.choose_examples`."""
        return [answer.example for answer in self.answers]

    @property
    def remarks(self) -> list[str]:
        """What a reader of the scores should know: rows that failed, answers that were cut or could not be read."""
        remarks = [f"rows left out: {self.problems.summary()}"] if self.problems.count else []
        remarks += self.notes
        for name, task in self.tasks.items():
            if task.errors:
                first = next(answer.error for answer in self.answers if answer.task == name and answer.error)
                remarks.append(f"{name}: {task.errors} of {task.n} could not be asked and count as wrong ({first})")
            if task.unparsed:
                remarks.append(
                    f"{name}: {task.unparsed:.1%} of the answers name no option, or several; counted as wrong"
                )
            if task.truncated:
                remarks.append(f"{name}: {task.truncated} of {task.n} answers were cut; raise max_new_tokens")
        return remarks

    def to_json(self) -> dict[str, Any]:
        """`{"tasks": {name: {"metric", "score", "blind", "prior", "n", "ci95", ...}}}`, and the `remarks` if any."""
        remarks = {"remarks": self.remarks} if self.remarks else {}
        return {"tasks": {name: task.to_json() for name, task in self.tasks.items()}} | remarks


def recording_of(row: Row) -> Hashable:
    """Rows about one recording belong together when doubt is measured."""
    return (row.source, row.source_id) if row.source_id else row.group_key


def write_results(
    path: str | os.PathLike[str],
    results: Mapping[str, EvaluationResult],
    *,
    total_seconds: float,
    peak_memory_gib: float,
    stages: Mapping[str, float],
    text_check: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a run's figures as JSON, and return them. `stages`: seconds by name. The file appears whole or not at all.

    `text_check`: stage -> rows without sound -> nats a token before and after it.
    The first of the results stands under "tasks", further ones by name under "evaluations".
    """
    figures: dict[str, Any] = {
        "total_seconds": round(total_seconds, 1),
        "peak_memory_gib": round(peak_memory_gib, 3),
        "stages": {name: round(seconds, 1) for name, seconds in stages.items()},
        "tasks": {},
    }
    evaluations = {name: result.to_json() for name, result in results.items()}
    for name in list(evaluations)[:1]:
        figures |= evaluations.pop(name)
    if evaluations:
        figures["evaluations"] = evaluations
    if text_check:
        figures["text_check"] = dict(text_check)
    write_whole(Path(path), json.dumps(figures, indent=2, allow_nan=False) + "\n")
    return figures
