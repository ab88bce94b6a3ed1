"""Single answers for a report to show, and which of many to show.

Not here: how they look (html.py).
"""

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from audiollm.conversation import Row


@dataclass(frozen=True)
class Example:
    """One question with the answer that was heard and the one that was guessed."""

    row: Row
    answer: str
    correct: bool
    blind_answer: str | None = None
    """The answer without the audio; None where that was not asked."""
    blind_correct: bool | None = None
    task: str = ""


def choose_examples(examples: Sequence[Example], count: int = 12, *, failures: int = 2, seed: int = 0) -> list[Example]:
    """One of each task by lot, then failures, then more by lot: neither the best ones nor the worst.

    Each is about another recording where there are enough. With more tasks than places, one place stays for a failure.
    """
    drawn = random.Random(seed).sample(list(examples), len(examples))
    tasks = list(dict.fromkeys(example.task for example in examples))
    places_for_tasks = min(len(tasks), count - any(not example.correct for example in examples))
    chosen: list[Example] = []
    for task in tasks[:places_for_tasks]:
        _take(chosen, [example for example in drawn if example.task == task], places_for_tasks)
    wrong = sum(not example.correct for example in chosen)
    for _ in range(max(failures - wrong, 0)):
        _take(chosen, [example for example in drawn if not example.correct], count)
    while len(chosen) < min(count, len(examples)):
        _take(chosen, drawn, count)
    place = {task: index for index, task in enumerate(tasks)}
    return sorted(chosen, key=lambda example: place[example.task])


def _take(chosen: list[Example], candidates: Sequence[Example], limit: int) -> None:
    """Move the first candidate that is new to `chosen`; better one about a recording that is not there yet."""
    if len(chosen) >= limit:
        return
    taken = {id(example) for example in chosen}
    heard = {_recording(example) for example in chosen}
    new = [example for example in candidates if id(example) not in taken]
    fresh = [example for example in new if _recording(example) not in heard]
    chosen.extend((fresh or new)[:1])


def _recording(example: Example) -> Hashable:
    return example.row.group_key
