"""Score two towers: retrieval in both directions where rows have captions, zero-shot classes where they have labels.

    rows of one clip ─► every clip and text embedded once ─► ranking of each query ─► EvaluationResult

A task of captions, descriptions or transcripts is retrieval: each of a clip's texts (the answer and `references`) asks
for its clip (t2a), and each clip for any of its texts (a2t), as Clotho and AudioCaps are counted. Texts of the same
words are one text, and right for all their clips. Any other task is classification, among a row's `choices` or else
among all answers of the task.

Not here: how a ranking is scored (ranking.py), vectors (audiollm/matching.py).
Shapes: N clips, M candidates, E shared width.
"""

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from audiollm.conversation import Row
from audiollm.data.pairs import is_caption, same_words
from audiollm.data.sources import Problems
from audiollm.evaluation import ranking
from audiollm.evaluation.metrics import Count, confidence_interval, total
from audiollm.evaluation.results import EvaluationResult, ScoredAnswer, TaskScore, recording_of
from audiollm.evaluation.run import Write, group_by_task, json_lines, progress_bar
from audiollm.evaluation.tasks import TASK_METRICS, Scorer, choose_scorer, commonest_answer, right_answer

if TYPE_CHECKING:
    from audiollm.matching import Matcher

FIRST = (1, 5, 10)
"""Where R@k looks."""
MAP_FIRST = 10


@dataclass(frozen=True)
class Embedded:
    """The clips of an evaluation; `other` gives each another clip's vector, which is the blind control."""

    place: Mapping[Hashable, int]
    vectors_NE: np.ndarray
    problems: Mapping[int, str]
    other_N: np.ndarray

    def of(self, row: Row, *, blind: bool = False) -> np.ndarray:
        """The vector [E] of the row's clip, or of another one; NaN where it could not be heard."""
        place = self.place[row.clips[0].key]
        return self.vectors_NE[self.other_N[place] if blind else place]

    def problem(self, row: Row) -> str | None:
        """Why the row's clip could not be heard."""
        return self.problems.get(self.place[row.clips[0].key])


def evaluate_towers(
    matcher: "Matcher",
    rows: Sequence[Row],
    *,
    template: str,
    blind: bool = False,
    batch_size: int = 64,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    problems: Problems | None = None,
) -> EvaluationResult:
    """Score two towers on rows, task by task; the arguments are those of `evaluate`.

    `template` says a label in words. `blind`: rank again with each clip's sound exchanged for another clip's.
    """
    asked, notes = what_can_be_asked(group_by_task(rows, problems))
    every = [row for rows in asked.values() for row in rows]
    tasks: dict[str, TaskScore] = {}
    answers: list[ScoredAnswer] = []
    with json_lines(out) as write, progress_bar(progress) as bar:
        counted = bar.add_task("clips", total=len({row.clips[0].key for row in every}))
        heard = embed(matcher, every, batch_size, partial(bar.advance, counted))
        for task, chosen in asked.items():
            judge = retrieve if is_retrieval(task, chosen) else partial(classify, template=template)
            scores, given = judge(matcher, task, chosen, heard, blind=blind, write=write)
            tasks |= scores
            answers += given
    if blind:
        notes.append("without audio: each clip's sound was exchanged for another clip's")
    return EvaluationResult(tasks, tuple(answers), problems or Problems(), tuple(notes))


def what_can_be_asked(by_task: Mapping[str, Sequence[Row]]) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each task that two towers can be judged by, and what is left out, in words."""
    asked: dict[str, list[Row]] = {}
    notes = []
    for task, rows in by_task.items():
        if choose_scorer(task, rows, {}).form == "yes_no":
            notes.append(f"{task}: left out, since yes and no say nothing about a clip")
            continue
        asked[task] = [row for row in rows if len(row.clips) == 1]
        if left_out := len(rows) - len(asked[task]):
            notes.append(f"{task}: {left_out} of {len(rows)} rows are left out, since they are not about one clip")
    asked = {task: rows for task, rows in asked.items() if rows}
    if not asked:
        raise ValueError(
            "no row has one clip with a caption, a label or choices; two towers cannot be judged by others"
        )
    return asked, notes


def is_retrieval(task: str, rows: Sequence[Row]) -> bool:
    """Whether the answers of a task are texts about a clip, and no labels."""
    return task in TASK_METRICS or (is_caption(rows[0]) and not rows[0].choices)


def embed(matcher: "Matcher", rows: Sequence[Row], batch_size: int, advance: Callable[[int], Any]) -> Embedded:
    """Every clip once, and for each another one, by a circle through all of them in an order drawn by lot."""
    clips = {row.clips[0].key: row.clips[0] for row in rows}
    vectors_NE, problems = matcher.embed_clips([*clips.values()], batch_size=batch_size, advance=advance)
    order_N = np.random.default_rng(0).permutation(len(clips))
    other_N = np.empty_like(order_N)
    other_N[order_N] = np.roll(order_N, 1)
    return Embedded({key: place for place, key in enumerate(clips)}, vectors_NE, problems, other_N)


# --- retrieval --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Captions:
    """The clips of a task and their texts, of which those of the same words are one."""

    rows: list[Row]  # the first of each clip
    texts: list[str]
    texts_of: list[list[int]]  # of each clip
    clips_of: list[list[int]]  # of each text

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Captions":
        """Bring the rows about each clip together, and the clips of each text."""
        by_clip: dict[Hashable, list[Row]] = {}
        for row in rows:
            by_clip.setdefault(row.clips[0].key, []).append(row)
        number_of: dict[str, int] = {}
        texts: list[str] = []
        clips_of: list[list[int]] = []
        texts_of: list[list[int]] = []
        for clip, about in enumerate(by_clip.values()):
            said = {same_words(text): text for row in about for text in (row.target, *row.references)}
            for words, text in said.items():
                if number_of.setdefault(words, len(texts)) == len(texts):
                    texts.append(text)
                    clips_of.append([])
                clips_of[number_of[words]].append(clip)
            texts_of.append([number_of[words] for words in said])
        return cls([about[0] for about in by_clip.values()], texts, texts_of, clips_of)


@dataclass(frozen=True)
class Query:
    """Where the right candidates of one query stand."""

    row: Row
    text: str | None  # that asks; None where the clip does
    places: list[int]
    num_right: int
    num_candidates: int
    nearest: str  # the candidate in the first place

    def value(self, metric: str) -> float:
        """R@k or mAP@k of this query."""
        name, k = metric.split("@")
        if name == "R":
            return ranking.recall(self.places, int(k))
        return ranking.average_precision(self.places, self.num_right, int(k))

    def by_chance(self, metric: str) -> float:
        """What a random order would be worth."""
        name, k = metric.split("@")
        chance = ranking.chance_recall if name == "R" else ranking.chance_average_precision
        return chance(self.num_right, self.num_candidates, int(k))


def retrieve(
    matcher: "Matcher", task: str, rows: Sequence[Row], heard: Embedded, *, blind: bool, write: Write
) -> tuple[dict[str, TaskScore], list[ScoredAnswer]]:
    """Both directions over the clips of a task and their texts; an answer for each clip, the text nearest to it."""
    captions = Captions.of(rows)
    texts_ME = matcher.embed_texts(captions.texts)
    scores: dict[str, TaskScore] = {}
    for way, ask in WAYS.items():
        queries = ask(captions, texts_ME, heard)
        others = ask(captions, texts_ME, heard, blind=True) if blind else None
        scores |= {f"{task}_{way}_{metric}": score_of(metric, queries, others) for metric in METRICS}
        for query in queries:
            write(line_of(f"{task}_{way}", query))
    first = f"{task}_a2t_R@1"  # which has the answers
    answers = [answer_of(first, query, heard) for query in queries]
    errors = sum(answer.error is not None for answer in answers)
    return scores | {first: replace(scores[first], errors=errors)}, answers


def clips_by_text(captions: Captions, texts_ME: np.ndarray, heard: Embedded, *, blind: bool = False) -> list[Query]:
    """Each text of each clip asks for the clips that it is about."""
    clips_NE = np.stack([heard.of(row, blind=blind) for row in captions.rows])
    names = [row.id or row.origin for row in captions.rows]
    return [
        query(captions.rows[clip], captions.texts[text], clips_NE @ texts_ME[text], captions.clips_of[text], names)
        for clip, about in enumerate(captions.texts_of)
        for text in about
    ]


def texts_by_clip(captions: Captions, texts_ME: np.ndarray, heard: Embedded, *, blind: bool = False) -> list[Query]:
    """Each clip asks for any of its texts."""
    return [
        query(row, None, texts_ME @ heard.of(row, blind=blind), right, captions.texts)
        for row, right in zip(captions.rows, captions.texts_of, strict=True)
    ]


WAYS = {"t2a": clips_by_text, "a2t": texts_by_clip}
METRICS = (*(f"R@{k}" for k in FIRST), f"mAP@{MAP_FIRST}")


def query(row: Row, text: str | None, scores_M: np.ndarray, right: Sequence[int], names: Sequence[str]) -> Query:
    """Rank candidates of these names by their scores."""
    nearest = "" if np.isnan(scores_M).all() else names[int(np.nanargmax(scores_M))]
    return Query(row, text, ranking.places_of(scores_M, right), len(right), len(names), nearest)


def score_of(metric: str, queries: Sequence[Query], others: Sequence[Query] | None) -> TaskScore:
    """One metric over all queries; those of one recording belong together when doubt is measured."""
    counts = [Count(query.value(metric), 1) for query in queries]
    return TaskScore(
        metric=metric,
        score=total(counts),
        prior=total(Count(query.by_chance(metric), 1) for query in queries),
        n=len(queries),
        ci95=confidence_interval(counts, [recording_of(query.row) for query in queries]),
        blind=None if others is None else total(Count(query.value(metric), 1) for query in others),
    )


def line_of(task: str, query: Query) -> dict[str, Any]:
    """What a file of answers keeps of a query."""
    name = query.row.id or query.row.origin
    return {
        "id": name, "task": task, "text": query.text, "nearest": query.nearest, "places": query.places,
        "candidates": query.num_candidates,
    }  # fmt: skip


def answer_of(task: str, query: Query, heard: Embedded) -> ScoredAnswer:
    """The text that is nearest to a clip, as the report shows it."""
    got = query.value("R@1")
    return ScoredAnswer(query.row, task, query.nearest, got, got == 1, heard.problem(query.row))


# --- classification ---------------------------------------------------------------------------------------------------


def classify(
    matcher: "Matcher", task: str, rows: Sequence[Row], heard: Embedded, *, template: str, blind: bool, write: Write
) -> tuple[dict[str, TaskScore], list[ScoredAnswer]]:
    """Each clip's nearest label, told by the template, among the row's choices or else all answers of the task."""
    scorer = choose_scorer(task, rows, {})
    labels = labels_of(rows)
    every = list(dict.fromkeys(label for these in labels for label in these))
    vectors_ME = matcher.embed_texts([template.replace("{label}", label) for label in every])
    vector_of = dict(zip(every, vectors_ME, strict=True))
    answers = []
    for row, these in zip(rows, labels, strict=True):
        label, other = (nearest_label(heard.of(row, blind=without), these, vector_of) for without in (False, True))
        got, by_other = scorer.count(row, label), scorer.count(row, other)
        shown = (other, scorer.is_right(by_other)) if blind else (None, None)
        answers.append(ScoredAnswer(row, task, label, got.got, scorer.is_right(got), heard.problem(row), False, *shown))
        write({"id": row.id or row.origin, "task": task, "target": right_answer(row), "prediction": label})
    return {task: zero_shot_score(scorer, rows, answers)}, answers


def labels_of(rows: Sequence[Row]) -> list[list[str]]:
    """What each row's clip may be: its choices, or whatever is right for any row."""
    known = list(dict.fromkeys(right_answer(row) for row in rows))
    return [list(row.choices) or known for row in rows]


def nearest_label(clip_E: np.ndarray, labels: Sequence[str], vector_of: Mapping[str, np.ndarray]) -> str:
    """The label whose text is nearest to a clip; none for a clip that could not be heard."""
    scores_M = np.stack([vector_of[label] for label in labels]) @ clip_E
    return "" if np.isnan(scores_M).any() else labels[int(scores_M.argmax())]


def zero_shot_score(scorer: Scorer, rows: Sequence[Row], answers: Sequence[ScoredAnswer]) -> TaskScore:
    """The share of right labels."""
    counts = [Count(answer.score, 1) for answer in answers]
    blindly = [float(answer.blind_correct) for answer in answers if answer.blind_correct is not None]
    commonest = commonest_answer(rows)
    return TaskScore(
        metric=scorer.metric,
        score=total(counts),
        prior=total(scorer.count(row, commonest) for row in rows),
        n=len(rows),
        ci95=confidence_interval(counts, [recording_of(row) for row in rows]),
        blind=sum(blindly) / len(blindly) if blindly else None,
        errors=sum(answer.error is not None for answer in answers),
    )
