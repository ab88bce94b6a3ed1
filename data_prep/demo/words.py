"""What is said: sixty words of content in six classes of ten, and the sentences and rows in which they come.

Not here: who says it (voices.py).
"""

import numpy as np

from data_prep.demo.draw import Deck

CLASSES = {
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "verb": ("open", "bring", "wash", "move", "paint", "lift", "check", "carry", "deliver", "forget"),
    "quality": ("red", "green", "blue", "yellow", "purple", "silver", "heavy", "tiny", "broken", "wooden"),
    "object": ("window", "table", "basket", "lamp", "chair", "mirror", "hammer", "pencil", "suitcase", "box"),
    "thing": ("music", "water", "coffee", "flowers", "bread", "apples", "sugar", "money", "chocolate", "tickets"),
    "place": ("kitchen", "garden", "office", "station", "village", "hospital", "forest", "school", "museum", "tower"),
}
VOCABULARY = tuple(word for words in CLASSES.values() for word in words)
CLASS_OF = {word: name for name, words in CLASSES.items() for word in words}
FORMS = ("object", "place", "object", "place", "digits", "free", "free", "free")
"""How often each kind of utterance comes: "free" ones are rows of words in no order that could be guessed."""
MOST_WORDS = 4
"""Of a free row or a string of digits; sentences have five."""


TEST_SHARE = 5
"""One in so many of all possible utterances is kept for the test, and never said in training."""


class Utterances:
    """Draws what is said in a split, so that words of a class are equally frequent."""

    def __init__(self, rng: np.random.Generator, split: str, most_words: int = MOST_WORDS) -> None:
        self.for_test = split == "test"
        self.decks = {name: Deck(words, rng) for name, words in CLASSES.items()}
        self.forms, self.numbers = Deck(FORMS, rng), Deck(range(2, most_words + 1), rng)
        # The verbs and digits come often enough in sentences and strings.
        rare = [word for word in VOCABULARY if CLASS_OF[word] not in ("verb", "digit")]
        self.free = Deck([*VOCABULARY, *rare], rng)

    def draw(self) -> tuple[str, ...]:
        """The words of one utterance."""
        form = self.forms.draw()
        while is_for_test(utterance := self._draw(form)) != self.for_test:
            pass
        return utterance

    def _draw(self, form: str) -> tuple[str, ...]:
        if form == "object":
            verb, quality, thing = (self.decks[name].draw() for name in ("verb", "quality", "object"))
            return (verb, "the", quality, thing)
        if form == "place":
            verb, thing, place = (self.decks[name].draw() for name in ("verb", "thing", "place"))
            return (verb, thing, "in", "the", place)
        if form == "digits":
            return tuple(self.decks["digit"].draw() for _ in range(self.numbers.draw()))
        return self.free.several(self.numbers.draw())


def is_for_test(utterance: tuple[str, ...]) -> bool:
    """Whether an utterance is one of those that only the test says."""
    return sum(VOCABULARY.index(word) for word in content_words(utterance)) % TEST_SHARE == 0


def content_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """The different words of an utterance that can be asked for."""
    return tuple(dict.fromkeys(word for word in words if word in CLASS_OF))
