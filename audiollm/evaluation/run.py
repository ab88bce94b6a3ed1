"""Ask a model every question of some rows, with the audio and without it, and score what it says.

    rows ─► batches of alike prompts ─► answers, one JSON line each ─► score by task ─► EvaluationResult

Not here: how an answer is made (inference.py), what it is worth (metrics.py, tasks.py), how it looks (audiollm/report).
"""

import json
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from audiollm.conversation import Row
from audiollm.data.sources import Problems
from audiollm.evaluation.metrics import Count, confidence_interval, final_answer, total, yes_or_no
from audiollm.evaluation.results import EvaluationResult, ScoredAnswer, TaskScore, recording_of
from audiollm.evaluation.tasks import Scorer, choose_scorer, commonest_answer, right_answer, task_of

if TYPE_CHECKING:
    from audiollm.inference import Answer, Listener

Write = Callable[[dict[str, Any]], None]
# What an answer is worth that was never given: the same as saying nothing.
NO_ANSWER = ""


@dataclass(frozen=True)
class _Judged:
    """One answer, and what it is worth."""

    answer: "Answer"
    count: Count
    normalised: str | None
    correct: bool

    @property
    def score(self) -> float:
        return self.count.got / max(self.count.of, 1)


def evaluate(
    listener: "Listener",
    rows: Sequence[Row],
    *,
    blind: bool = False,
    batch_size: int = 64,
    max_new_tokens: int = 64,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    metrics: Mapping[str, str] | None = None,
    problems: Problems | None = None,
) -> EvaluationResult:
    """Score a model's answers to the last assistant message of each row; every row counts, whatever happens to it.

    `blind`: ask everything a second time with the audio left out. `out`: a file that gets one JSON line an answer, as
    they come. `metrics`: task -> metric, where it should differ from the table in tasks.py. `problems`: what was left
    out when the rows were read, to be told with the scores.
    """
    by_task = group_by_task(rows, problems)
    scorers = {task: choose_scorer(task, group, metrics or {}) for task, group in by_task.items()}

    def judge(row: Row, answer: "Answer") -> _Judged:
        scorer, text = scorers[task_of(row)], NO_ANSWER if answer.error else final_answer(answer.text)
        count = scorer.count(row, text)
        return _Judged(answer, count, scorer.normalised(row, text), scorer.is_right(count))

    order = _alike_together(rows)
    with json_lines(out) as write, progress_bar(progress) as bar:
        judged: dict[bool, list[_Judged]] = {}
        for without_audio in (False, True) if blind else (False,):
            asked = [row.without_audio() for row in rows] if without_audio else rows
            task = bar.add_task("without audio" if without_audio else "with audio", total=len(rows))
            given: dict[int, _Judged] = {}
            prompts = [asked[index].prompt for index in order]
            answers = listener.answer(prompts, batch_size=batch_size, max_new_tokens=max_new_tokens)
            for index, answer in zip(order, answers, strict=True):
                given[index] = judge(rows[index], answer)
                write(_line(rows[index], given[index], without_audio))
                bar.advance(task)
            judged[without_audio] = [given[index] for index in range(len(rows))]
    result = _summarise(rows, scorers, judged[False], judged.get(True))
    return replace(result, problems=problems or Problems())


def group_by_task(rows: Sequence[Row], problems: Problems | None) -> dict[str, list[Row]]:
    """The rows of each task; ValueError where there are none, or none that could be read."""
    if not rows and problems is not None and problems.count:
        raise ValueError(f"no row could be used; {problems.summary()}")
    if not rows:
        raise ValueError("there are no rows to evaluate; check the path and the `tasks` and `limit` of the evaluation")
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(task_of(row), []).append(row)
    return by_task


def _alike_together(rows: Sequence[Row]) -> list[int]:
    """The order in which to ask: by task, then the longest first, so that a batch holds little padding.

    The longest of a task come first so that a batch that is too large for the memory fails early.
    """
    seconds: dict[Hashable, float] = {}
    for clip in (clip for row in rows for clip in row.clips):
        if clip.key not in seconds:
            seconds[clip.key] = clip.seconds()
    keys = [(task_of(row), -sum(seconds[clip.key] for clip in row.clips)) for row in rows]
    return sorted(range(len(rows)), key=keys.__getitem__)


# --- scores -----------------------------------------------------------------------------------------------------------


def _summarise(
    rows: Sequence[Row], scorers: Mapping[str, Scorer], heard: list[_Judged], unheard: list[_Judged] | None
) -> EvaluationResult:
    answers = [
        ScoredAnswer(
            row,
            task_of(row),
            with_audio.answer.text,
            with_audio.score,
            with_audio.correct,
            with_audio.answer.error,
            with_audio.answer.truncated,
            without.answer.text if without else None,
            without.correct if without else None,
        )
        for row, with_audio, without in zip(rows, heard, unheard or repeat(None, len(rows)), strict=True)
    ]
    places: dict[str, list[int]] = {task: [] for task in scorers}
    for index, row in enumerate(rows):
        places[task_of(row)].append(index)
    tasks = {
        task: _score_task(
            scorers[task],
            [rows[index] for index in chosen],
            [heard[index] for index in chosen],
            [unheard[index] for index in chosen] if unheard else None,
        )
        for task, chosen in places.items()
    }
    return EvaluationResult(tasks, tuple(answers))


def _score_task(scorer: Scorer, rows: list[Row], heard: list[_Judged], unheard: list[_Judged] | None) -> TaskScore:
    counts = [judged.count for judged in heard]
    commonest = commonest_answer(rows)
    can_be_unparsed = scorer.form == "yes_no" or (scorer.metric == "exact" and any(row.choices for row in rows))
    answered = [judged for judged in heard if not judged.answer.error]
    return TaskScore(
        metric=scorer.metric,
        score=total(counts),
        prior=total(scorer.count(row, commonest) for row in rows),
        n=len(rows),
        ci95=confidence_interval(counts, [recording_of(row) for row in rows]),
        blind=total(judged.count for judged in unheard) if unheard else None,
        yes_recall=_recall("yes", scorer, rows, counts),
        no_recall=_recall("no", scorer, rows, counts),
        unparsed=sum(judged.normalised is None for judged in answered) / len(rows) if can_be_unparsed else None,
        errors=len(heard) - len(answered),
        truncated=sum(judged.answer.truncated for judged in answered),
    )


def _recall(word: str, scorer: Scorer, rows: list[Row], counts: list[Count]) -> float | None:
    """Share of the questions whose right answer is this word that got it; None where there is no such question."""
    if scorer.form != "yes_no":
        return None
    asked = [count for row, count in zip(rows, counts, strict=True) if yes_or_no(row.target) == word]
    return total(asked) if asked else None


# --- what is written and shown on the way -----------------------------------------------------------------------------


def _line(row: Row, judged: _Judged, blind: bool) -> dict[str, Any]:
    return {
        "id": row.id or row.origin,
        "task": task_of(row),
        "question": row.question,
        "target": right_answer(row),
        "prediction": judged.answer.text,
        "normalised": judged.normalised,
        "correct": judged.correct,
        "score": round(judged.score, 6),
        "blind": blind,
        "truncated": judged.answer.truncated,
        "error": judged.answer.error,
    }


@contextmanager
def json_lines(path: str | os.PathLike[str] | None) -> Iterator[Write]:
    """A function that appends one object to the file, at once readable by others; it does nothing without a path."""
    if path is None:
        yield lambda line: None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", buffering=1) as file:
        yield lambda line: print(json.dumps(line, ensure_ascii=False), file=file)


def progress_bar(shown: bool) -> Progress:
    """What shows how far an evaluation has come, to people who look."""
    columns = (TextColumn("{task.description:>14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
