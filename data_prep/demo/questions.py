"""What is asked about a scene, and the right answers.

Every task that applies to a scene is asked. `existence` and `word` come in pairs: something that is there, something
that is not; and over a corpus each thing is asked for as often where it is as where it is not, so that a question
alone says nothing about its answer.

Not here: the wordings (phrasings.py).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.demo.music import INSTRUMENTS
from data_prep.demo.phrasings import Phrasings
from data_prep.demo.scenes import Scene, with_article
from data_prep.demo.sounds import SIMILAR, SOUNDS
from data_prep.demo.words import CLASSES, VOCABULARY, content_words

EASY = ("describe", "kind", "gender")
"""Tasks that are learned long before the others."""
COUNTS = ("zero", "one", "two", "three")
HARD_SHARE = 0.7
"""How often an absent thing is one that is easily taken for the present one, if the balance allows."""
MOST_NEIGHBOURS = 2
"""Words of a scene of which is asked what follows them."""


@dataclass(frozen=True)
class Question:
    """One thing asked about a scene: `about` fills the place in the phrasing."""

    task: str
    answer: str
    about: str = ""

    def phrase(self, phrasings: Phrasings, rng: np.random.Generator) -> str:
        """The question in words, in one of the ways that the task has."""
        ways = phrasings[self.task]
        return ways[rng.integers(len(ways))].format(self.about)


class Absentees:
    """Chooses what to ask for that is not there, in balance with what was asked for that is there."""

    def __init__(self, things: Iterable[str], rng: np.random.Generator) -> None:
        self.surplus = Counter({thing: 0 for thing in things})  # answers "yes" less answers "no"
        self.rng = rng

    def pairs(self, present: Sequence[str], similar: Iterable[Collection[str]], most: int) -> Iterator[tuple[str, str]]:
        """Up to `most` pairs of a thing that is there and one that is not, no thing twice."""
        there = [present[index] for index in self.rng.permutation(len(present))][:most]
        self.surplus.update(there)
        asked = set(present)
        for thing in there:
            close = {other for group in similar if thing in group for other in group}
            absent = self._choose(asked, close)
            asked.add(absent)
            self.surplus[absent] -= 1
            yield thing, absent

    def _choose(self, asked: Collection[str], close: Collection[str]) -> str:
        """A thing not yet asked for: a `close` one where the balance allows, or one that is owed most answers "no"."""
        free = {thing: surplus for thing, surplus in self.surplus.items() if thing not in asked}
        owed = [thing for thing, surplus in free.items() if surplus >= 0 and thing in close]
        if not owed or self.rng.random() > HARD_SHARE:
            largest = max(free.values())
            owed = [thing for thing, surplus in free.items() if surplus == largest]
        return owed[self.rng.integers(len(owed))]


class Asker:
    """Asks about scenes, and keeps the balance over all of them."""

    def __init__(
        self, rng: np.random.Generator, pairs: int, *, auxiliary: bool = False, easy_share: float = 1.0
    ) -> None:
        self.rng, self.most_pairs, self.auxiliary, self.easy_share = rng, pairs, auxiliary, easy_share
        self.sounds, self.words = Absentees((*SOUNDS, *INSTRUMENTS), rng), Absentees(VOCABULARY, rng)

    def ask(self, scene: Scene) -> list[Question]:
        """Every task that applies to a scene; a pair of `existence` and, harder, up to `pairs` pairs of `word`.

        An easy one is asked of a share of the scenes, by lot.
        """
        about = {"speech": self.about_speech, "music": about_music, "sound": about_sounds}[scene.kind]
        questions = [Question("describe", scene.caption), Question("kind", scene.kind), *about(scene)]
        questions = [q for q in questions if q.task not in EASY or self.rng.random() < self.easy_share]
        present = (scene.instrument,) if scene.kind == "music" else scene.sounds
        for heard, absent in self.sounds.pairs(present, (*SIMILAR, set(INSTRUMENTS)), 1):
            questions.append(Question("existence", "yes", with_article(heard)))
            questions.append(Question("existence", "no", with_article(absent)))
        if self.auxiliary:
            questions += self.about_neighbours(scene.words)
        return questions

    def about_speech(self, scene: Scene) -> Iterator[Question]:
        """Who says what."""
        assert scene.voice is not None and scene.transcript is not None
        yield Question("transcribe", scene.transcript)
        yield Question("gender", scene.voice.gender)
        for spoken, absent in self.words.pairs(content_words(scene.words), CLASSES.values(), self.most_pairs):
            yield Question("word", "yes", spoken)
            yield Question("word", "no", absent)

    def about_neighbours(self, words: Sequence[str]) -> Iterator[Question]:
        """What follows a word; nothing follows the last one, and "none" is said of a word that is not there."""
        single = [index for index, word in enumerate(words) if words.count(word) == 1]
        for index in self.rng.permutation(single)[:MOST_NEIGHBOURS]:
            yield Question("after", words[index + 1] if index + 1 < len(words) else "nothing", words[index])
        absent = [word for word in VOCABULARY if word not in words]
        if words:
            yield Question("after", "none", absent[self.rng.integers(len(absent))])


def about_sounds(scene: Scene) -> Iterator[Question]:
    """Which sounds, how many, in which order."""
    yield Question("event", ", ".join(scene.sounds))
    yield Question("count", COUNTS[len(scene.sounds)])
    if len(scene.sounds) > 1:
        yield Question("order", scene.sounds[0], "first")
        yield Question("order", scene.sounds[-1], "last")


def about_music(scene: Scene) -> Iterator[Question]:
    """What plays, and how fast."""
    yield Question("instrument", scene.instrument)
    yield Question("tempo", scene.tempo)
