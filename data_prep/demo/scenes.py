"""A scene is what happens in one clip, in words: drawn here, before any sound is made of it (render.py).

Not here: what is asked about it (questions.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.demo.draw import Deck
from data_prep.demo.music import DIRECTIONS, INSTRUMENTS, TEMPOS
from data_prep.demo.sounds import BACKGROUNDS, SOUNDS, WITHOUT_ARTICLE
from data_prep.demo.voices import GENDERS, Voice, voices
from data_prep.demo.words import MOST_WORDS, Utterances

MOST_EVENTS = 3
TRAIN_MIX = ("sound",) * 3 + ("speech",) * 11 + ("speech over sound",) * 2 + ("music",) * 4
"""Of each twenty clips; there is most to learn about speech."""
TEST_MIX = ("sound",) * 4 + ("speech",) * 3 + ("speech over sound",) + ("music",) * 4
"""Of each twelve clips; sound, speech and music are equally frequent, so that `kind` cannot be guessed."""


@dataclass(frozen=True)
class Scene:
    """What happens in one clip. Of the fields after `kind`, those that its kind has no use for are empty."""

    kind: str  # sound, speech or music
    sounds: tuple[str, ...] = ()  # in order; under speech, the one in the background
    words: tuple[str, ...] = ()
    voice: Voice | None = None
    instrument: str = ""
    tempo: str = ""
    direction: str = ""

    @property
    def transcript(self) -> str | None:
        """The words spoken."""
        return " ".join(self.words) or None

    @property
    def description(self) -> str:
        """Everything that can be asked about the scene, in one closed form."""
        if self.voice is not None:
            over = f" over {self.sounds[0]}" if self.sounds else ""
            return f"speech: a {self.voice.gender} says {self.transcript}{over}"
        if self.kind == "music":
            return f"music: a {self.tempo} {self.direction} {self.instrument}"
        return f"sounds: {', '.join(self.sounds)}"

    @property
    def caption(self) -> str:
        """The scene as one would tell it: the answer of `describe`."""
        if self.voice is not None:
            over = f" over {with_article(self.sounds[0])}" if self.sounds else ""
            return f"a {self.voice.gender} speaking{over}"
        if self.kind == "music":
            return f"a {self.tempo} {self.direction} {self.instrument} melody"
        return ", then ".join(with_article(sound) for sound in self.sounds)


def with_article(name: str) -> str:
    """siren -> a siren; alarm -> an alarm; rain -> rain."""
    if name in WITHOUT_ARTICLE:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def draw_scenes(split: str, number: int, rng: np.random.Generator, most_words: int = MOST_WORDS) -> Iterator[Scene]:
    """So many scenes; kinds, sounds, speakers, words, instruments and tempos are each equally frequent in turn."""
    kinds = Deck(TRAIN_MIX if split == "train" else TEST_MIX, rng)
    sounds, backgrounds = Deck(tuple(SOUNDS), rng), Deck(BACKGROUNDS, rng)
    numbers, genders = Deck(range(1, MOST_EVENTS + 1), rng), Deck(GENDERS, rng)
    speakers = {gender: Deck([v for v in voices(split) if v.gender == gender], rng) for gender in GENDERS}
    utterances = Utterances(rng, split, most_words)
    music = Deck([(i, t, d) for i in INSTRUMENTS for t in TEMPOS for d in DIRECTIONS], rng)
    for _ in range(number):
        kind = kinds.draw()
        if kind == "sound":
            yield Scene("sound", sounds=sounds.several(numbers.draw()))
        elif kind == "music":
            instrument, tempo, direction = music.draw()
            yield Scene("music", instrument=instrument, tempo=tempo, direction=direction)
        else:
            under = (backgrounds.draw(),) if kind == "speech over sound" else ()
            yield Scene("speech", sounds=under, words=utterances.draw(), voice=speakers[genders.draw()].draw())
