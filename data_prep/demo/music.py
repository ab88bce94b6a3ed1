"""Seven instruments from arithmetic, and the melodies that they play: slow or fast, rising or falling.

Not here: the tools (synth.py), loudness and room (render.py). A note is a frequency in Hz and a length in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_prep.demo.draw import Draw
from data_prep.demo.synth import Samples, decay, harmonics, length, noise, phase_of, place, times, with_edges

Note = Callable[[float, float], Samples]
"""Frequency in Hz, seconds -> samples."""


def piano(draw: Draw) -> Note:
    """Struck strings: many overtones, slightly stretched, the high ones dying first."""
    ring, stretch = draw.between(0.25, 0.4), draw.between(3e-4, 8e-4)

    def note(frequency: float, seconds: float) -> Samples:
        total = 0.15 * noise(draw.rng, seconds, 200, 2000) * decay(seconds, 0.008)
        for k in range(1, min(11, int(7000 / frequency))):
            overtone = k * frequency * np.sqrt(1 + stretch * k * k)
            total += k**-1.3 * np.sin(2 * np.pi * overtone * times(seconds)) * decay(seconds, ring / k**0.5)
        return with_edges(total, 0.003, 0.02)

    return note


def guitar(draw: Draw) -> Note:
    """Plucked strings: bright at first, dull soon; the place of the finger weakens some overtones."""
    ring, finger = draw.between(0.18, 0.28), draw.between(0.16, 0.22)

    def note(frequency: float, seconds: float) -> Samples:
        total = np.zeros(length(seconds))
        for k in range(1, min(25, int(7000 / frequency))):
            strength = abs(np.sin(np.pi * finger * k)) / k**0.6
            total += strength * np.sin(2 * np.pi * k * frequency * times(seconds)) * decay(seconds, ring / k**0.8)
        return with_edges(total, 0.001, 0.02)

    return note


def flute(draw: Draw) -> Note:
    """Almost one pure tone, with breath in it and a slow beginning."""
    breath, second = draw.between(0.06, 0.12), draw.between(0.1, 0.2)

    def note(frequency: float, seconds: float) -> Samples:
        tone = harmonics(np.full(length(seconds), frequency), [1, second, 0.03])
        air = noise(draw.rng, seconds, frequency, min(4 * frequency, 7000))
        return with_edges(tone + breath * air, 0.05, 0.04)

    return note


def violin(draw: Draw) -> Note:
    """Bowed strings: all overtones, a trembling pitch, a soft beginning."""
    speed, depth, bright = draw.between(5.5, 7), draw.between(0.008, 0.014), draw.between(0.8, 1.0)

    def note(frequency: float, seconds: float) -> Samples:
        pitch = frequency * (1 + depth * np.sin(2 * np.pi * speed * times(seconds)))
        return with_edges(harmonics(pitch, 1 / np.arange(1, 16) ** bright), 0.06, 0.04)

    return note


def organ(draw: Draw) -> Note:
    """Pipes: the octaves above each note sound with it, steadily, from the first moment to the last."""
    stops = [1, draw.between(0.6, 0.9), 0.1, draw.between(0.5, 0.8), 0, 0.1, 0, draw.between(0.4, 0.6)]

    def note(frequency: float, seconds: float) -> Samples:
        return with_edges(harmonics(np.full(length(seconds), frequency), stops), 0.008, 0.015)

    return note


def trumpet(draw: Draw) -> Note:
    """Brass: strong middle overtones that grow with the breath."""
    centre, push = draw.between(3.0, 4.0), draw.between(0.03, 0.05)

    def note(frequency: float, seconds: float) -> Samples:
        phase = phase_of(np.full(length(seconds), frequency))
        total, swell = np.zeros(len(phase)), 1 - decay(seconds, push)
        for k in range(1, min(15, int(7000 / frequency))):
            total += np.exp(-0.5 * ((k - centre) / 2.2) ** 2) * swell ** (1 + 0.3 * k) * np.sin(k * phase)
        return with_edges(total, 0.01, 0.03)

    return note


def marimba(draw: Draw) -> Note:
    """Wooden bars: a short round tone and a click two octaves and more above it."""
    ring, click = draw.between(0.07, 0.11), draw.between(0.3, 0.5)

    def note(frequency: float, seconds: float) -> Samples:
        t = times(seconds)
        bar = np.sin(2 * np.pi * frequency * t) * decay(seconds, ring)
        return with_edges(bar + click * np.sin(2 * np.pi * 3.93 * frequency * t) * decay(seconds, 0.02), 0.001, 0.01)

    return note


@dataclass(frozen=True)
class Instrument:
    """How an instrument sounds, and the lowest and highest note on which a melody begins or ends (MIDI numbers)."""

    make: Callable[[Draw], Note]
    lowest: int
    highest: int


INSTRUMENTS = {
    "piano": Instrument(piano, 55, 76),
    "guitar": Instrument(guitar, 43, 62),
    "flute": Instrument(flute, 72, 91),
    "violin": Instrument(violin, 60, 79),
    "organ": Instrument(organ, 50, 69),
    "trumpet": Instrument(trumpet, 58, 76),
    "marimba": Instrument(marimba, 57, 77),
}
TEMPOS = {"slow": (0.33, 0.40), "fast": (0.15, 0.19)}
"""Name -> shortest and longest time from note to note, in seconds."""
HELD = (0.7, 0.85)
"""How much of the time until the next note a note sounds: melodies are detached, so that notes can be counted."""
NUM_NOTES = {"slow": (4, 4), "fast": (7, 8)}
DIRECTIONS = ("rising", "falling")
MAJOR = (0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 17)
"""The notes of a scale, in semitones above its first."""


def play(draw: Draw, instrument: str, tempo: str, direction: str) -> Samples:
    """A melody up or down a major scale, a step or two at a time."""
    played = INSTRUMENTS[instrument]
    note, apart, number = played.make(draw), draw.between(*TEMPOS[tempo]), draw.count(*NUM_NOTES[tempo])
    held = draw.between(*HELD)
    steps = np.cumsum([0, *(draw.rng.integers(1, 3, number - 1) if number < 5 else np.ones(number - 1, dtype=int))])
    scale = [MAJOR[step] for step in steps]
    lowest = draw.between(played.lowest, played.highest - scale[-1])
    track = np.zeros(length(apart * number + 0.1))
    for index, step in enumerate(scale if direction == "rising" else scale[::-1]):
        frequency = 440 * 2 ** ((lowest + step - 69) / 12)
        place(track, note(frequency, apart * held), index * apart)
    return track
