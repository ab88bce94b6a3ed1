"""Which metric a task has, and one row's answer under it.

Not here: the arithmetic (metrics.py), making answers (run.py).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from audiollm.conversation import Row
from audiollm.evaluation import metrics
from audiollm.evaluation.metrics import Count

# A task that is not named here has `exact`.
TASK_METRICS = {"asr": "wer", "transcribe": "wer", "transcription": "wer", "describe": "f1"}
METRICS = ("exact", "f1", "wer")
UNNAMED_TASK = "answers"

Form = Literal["text", "yes_no"]


def task_of(row: Row) -> str:
    """The name under which a row's score is shown."""
    return row.task or UNNAMED_TASK


def right_answer(row: Row) -> str:
    """What a row holds to be right: the option where there are options, the last assistant message otherwise."""
    return row.answer if row.choices and row.answer else row.target


@dataclass(frozen=True)
class Scorer:
    """How the answers of one task are judged."""

    metric: str
    form: Form = "text"

    def count(self, row: Row, answer: str) -> Count:
        """The answer's part in the score of its task."""
        references = (row.target, *row.references)
        if self.metric == "wer":
            return metrics.wer(answer, references, row.language)
        if self.metric == "f1":
            return metrics.f1(answer, references)
        if row.choices:
            return metrics.exact_option(answer, right_answer(row), row.choices)
        return metrics.exact_yes_no(answer, references) if self.form == "yes_no" else metrics.exact(answer, references)

    def normalised(self, row: Row, answer: str) -> str | None:
        """The answer as it is compared; None where it cannot be read as one of the possible answers."""
        if self.metric == "wer":
            return metrics.transcript_form(answer, row.language)
        if self.metric == "f1":
            return ", ".join(sorted(metrics.things_named(answer)))
        if row.choices:
            return metrics.chosen_option(answer, row.choices)
        return metrics.yes_or_no(answer) if self.form == "yes_no" else metrics.normalise(answer)

    def is_right(self, count: Count) -> bool:
        """Whether an answer is entirely right."""
        return count.got == 0 if self.metric in metrics.LOWER_IS_BETTER else count.got == count.of


def choose_scorer(task: str, rows: Sequence[Row], chosen: Mapping[str, str]) -> Scorer:
    """The scorer of one task: `chosen` (task -> metric) first, then the table; yes/no where all its targets are."""
    metric = chosen.get(task, TASK_METRICS.get(task, "exact"))
    if metric not in METRICS:
        raise ValueError(f"task {task!r} asks for the metric {metric!r}; known: {', '.join(METRICS)}")
    if metric == "exact" and all(metrics.normalise(row.target) in {"yes", "no"} for row in rows):
        return Scorer(metric, "yes_no")
    return Scorer(metric)


def commonest_answer(rows: Sequence[Row]) -> str:
    """The right answer that occurs most often in these rows; the first of equals."""
    forms = [metrics.normalise(right_answer(row)) for row in rows]
    [(commonest, _)] = Counter(forms).most_common(1)
    return right_answer(rows[forms.index(commonest)])
