"""Sixteen everyday sounds from arithmetic: each function makes one, of a given length, with parameters drawn at random.

Not here: the tools (synth.py), scenes of several sounds (scenes.py), loudness and room (render.py).
"""

from collections.abc import Callable

import numpy as np

from data_prep.demo.draw import Draw
from data_prep.demo.synth import (
    Samples,
    decay,
    harmonics,
    length,
    noise,
    phase_of,
    place,
    times,
    with_edges,
)


def siren(draw: Draw, seconds: float) -> Samples:
    """A horn that howls up and down."""
    swing = np.sin(2 * np.pi * (draw.between(2.2, 3.4) * times(seconds) + draw.position()))
    return harmonics(draw.ratio(700, 1000) * 2 ** (draw.between(0.4, 0.6) * swing), [1, 0.5, 0.25, 0.1])


def alarm(draw: Draw, seconds: float) -> Samples:
    """A shrill beep, on and off."""
    on = (times(seconds) * draw.between(8, 11)) % 1 < 0.55
    tone = harmonics(np.full(length(seconds), draw.ratio(2400, 3000)), [1, 0, 0.4])
    return tone * np.convolve(on, np.full(32, 1 / 32), "same")


def phone(draw: Draw, seconds: float) -> Samples:
    """An electronic ring: two notes that alternate quickly."""
    upper = (times(seconds) * draw.between(16, 22)) % 1 < 0.5
    base = draw.ratio(1000, 1250)
    return harmonics(np.where(upper, base * 1.26, base), [1, 0.4, 0.3, 0.2])


def whistle(draw: Draw, seconds: float) -> Samples:
    """One pure tone that glides up, with a little breath."""
    glide = np.linspace(0, draw.between(0.25, 0.5), length(seconds)) ** 1.5
    tone = np.sin(phase_of(draw.ratio(1400, 1800) * 2**glide))
    return with_edges(tone, 0.04, 0.06) + 0.03 * noise(draw.rng, seconds, 1500, 4000)


def bird(draw: Draw, seconds: float) -> Samples:
    """A row of short chirps, each falling fast from high up."""
    track, rate, top = np.zeros(length(seconds)), draw.between(7, 10), draw.ratio(5000, 6200)
    for start in np.arange(0, seconds - 0.05, 1 / rate):
        fall = np.linspace(0, draw.between(0.5, 0.8), length(0.6 / rate))
        place(track, with_edges(np.sin(phase_of(top * 2**-fall)), 0.01, 0.02), start)
    return track


def dog(draw: Draw, seconds: float) -> Samples:
    """Barks: short, rough, falling in pitch."""
    track, apart, pitch = np.zeros(length(seconds)), draw.between(0.22, 0.28), draw.ratio(380, 520)
    for start in np.arange(0, seconds - 0.12, apart):
        bark = 0.15
        fall = pitch * np.interp(times(bark), [0, 0.03, bark], [0.8, 1.15, 0.6])
        voice = harmonics(fall, [0.6, 1, 0.9, 0.5, 0.3, 0.2])
        rough = 0.35 * noise(draw.rng, bark, 500, 2500)
        place(track, with_edges(voice + rough, 0.012, 0.06), start)
    return track


def cat(draw: Draw, seconds: float) -> Samples:
    """One long meow: the pitch rises and falls while the mouth opens and closes."""
    t = times(seconds) / seconds
    pitch = draw.ratio(520, 680) * (1 + 0.35 * np.sin(np.pi * t**0.8))
    mouth = 1 + 4 * np.sin(np.pi * t)
    phase, voice = phase_of(pitch), np.zeros(len(t))
    for number in range(1, 11):
        voice += np.exp(-0.5 * ((number - mouth) / 1.2) ** 2) * np.sin(number * phase)
    return with_edges(voice, 0.06, 0.1)


def engine(draw: Draw, seconds: float) -> Samples:
    """A motor at idle: a low buzz with a beat."""
    pitch = np.full(length(seconds), draw.ratio(45, 65)) * (1 + 0.02 * np.sin(2 * np.pi * 3 * times(seconds)))
    buzz = harmonics(pitch, 1 / np.arange(1, 25) ** 0.7)
    return buzz * (1 + 0.4 * np.sin(phase_of(pitch / 2))) + 0.2 * noise(draw.rng, seconds, 80, 600)


def bell(draw: Draw, seconds: float) -> Samples:
    """One stroke: partials that belong to no harmonic row, dying away slowly."""
    pitch, ring = draw.ratio(600, 850), draw.between(0.25, 0.4)
    total = np.zeros(length(seconds))
    for ratio, amplitude in ((0.5, 0.4), (1, 1), (1.19, 0.7), (1.56, 0.5), (2, 0.7), (2.66, 0.5), (3.76, 0.4)):
        total += amplitude * np.sin(2 * np.pi * pitch * ratio * times(seconds)) * decay(seconds, ring / ratio**0.5)
    return with_edges(total, 0.002, 0.03)


def clock(draw: Draw, seconds: float) -> Samples:
    """Ticking: dry clicks, higher and lower in turn."""
    track, apart, pitch = np.zeros(length(seconds)), 1 / draw.between(7, 9), draw.ratio(2600, 3400)
    for number, start in enumerate(np.arange(0.01, seconds - 0.02, apart)):
        tone = np.sin(2 * np.pi * pitch * (0.8 if number % 2 else 1) * times(0.03))
        place(track, (tone + 0.3 * noise(draw.rng, 0.03, 1500, 7000)) * decay(0.03, 0.005), start)
    return track


def knock(draw: Draw, seconds: float) -> Samples:
    """Knuckles on wood: short hollow thumps."""
    track, apart, pitch = np.zeros(length(seconds)), draw.between(0.13, 0.17), draw.ratio(230, 320)
    for start in np.arange(0.01, seconds - 0.04, apart):
        wood = np.sin(2 * np.pi * pitch * times(0.1)) + 0.5 * np.sin(2 * np.pi * 2.4 * pitch * times(0.1))
        place(track, wood * decay(0.1, 0.018), start)
    return track


def footsteps(draw: Draw, seconds: float) -> Samples:
    """Steps on gravel: a soft crunch of noise for each."""
    track, apart = np.zeros(length(seconds)), draw.between(0.2, 0.26)
    for start in np.arange(0.01, seconds - 0.1, apart):
        swell = np.interp(times(0.13), [0, 0.02, 0.05, 0.07, 0.13], [0, 1, 0.3, 0.6, 0])
        crunch = noise(draw.rng, 0.13, draw.ratio(900, 1200), 4000)
        place(track, swell * crunch, start)
    return track


def rain(draw: Draw, seconds: float) -> Samples:
    """A steady bright hiss with single drops."""
    track = 0.5 * noise(draw.rng, seconds, draw.ratio(2500, 3500), 7800)
    for start in draw.rng.uniform(0, seconds, int(draw.between(30, 50) * seconds)):
        drop = np.sin(2 * np.pi * draw.rng.uniform(4000, 7000) * times(0.012)) * decay(0.012, 0.003)
        place(track, 1.5 * drop, start)
    return with_edges(track, 0.03, 0.03)


def wind(draw: Draw, seconds: float) -> Samples:
    """A low whoosh that swells."""
    centre = draw.ratio(350, 500)
    swell = 0.35 + np.sin(np.pi * (draw.between(1.2, 2.0) * times(seconds) + 0.3 * draw.position())) ** 2
    return with_edges(noise(draw.rng, seconds, centre / 1.5, centre * 1.5) * swell, 0.05, 0.05)


def thunder(draw: Draw, seconds: float) -> Samples:
    """A crack, then a deep rumble that rolls away."""
    rumble = noise(draw.rng, seconds, 25, draw.ratio(90, 130)) * decay(seconds, draw.between(0.25, 0.4))
    crack = noise(draw.rng, seconds, 100, 3000) * decay(seconds, 0.03)
    return with_edges(rumble + 0.6 * crack, 0.01, 0.05)


def applause(draw: Draw, seconds: float) -> Samples:
    """Many hands, each clap a short burst."""
    track, pitch = np.zeros(length(seconds)), draw.ratio(1000, 1300)
    for start in draw.rng.uniform(0, seconds, int(draw.between(55, 80) * seconds)):
        clap = noise(draw.rng, 0.02, pitch * draw.rng.uniform(0.7, 1), pitch * draw.rng.uniform(1.5, 2.2))
        place(track, clap * decay(0.02, 0.004), start)
    return with_edges(track, 0.01, 0.02)


SOUNDS: dict[str, Callable[[Draw, float], Samples]] = {
    make.__name__: make
    for make in (
        *(siren, alarm, phone, whistle, bird, dog, cat, engine),
        *(bell, clock, knock, footsteps, rain, wind, thunder, applause),
    )
}
"""Name -> its maker. A name is what the rows call the sound."""

SIMILAR = (
    {"siren", "alarm", "phone", "whistle", "bird", "bell"},
    {"dog", "cat", "siren"},
    {"clock", "knock", "footsteps", "dog"},
    {"rain", "wind", "applause", "thunder", "footsteps"},
    {"engine", "thunder", "wind"},
)
"""Groups whose members are taken for each other most easily: the hard wrong answers."""

BACKGROUNDS = ("rain", "wind", "engine", "applause")
"""Sounds that go on and on, and may lie under speech."""

WITHOUT_ARTICLE = {"rain", "wind", "thunder", "applause", "footsteps"}
