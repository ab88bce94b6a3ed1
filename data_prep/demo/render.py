"""From a scene to its clip: the sounds in their places, then the room, some noise, a loudness; written as FLAC.

Not here: what happens in a scene (scenes.py). A clip depends on its scene, split, seed and number alone, so that it is
the same whichever process makes it.
"""

from pathlib import Path

import numpy as np

from audiollm import audio
from data_prep.demo.draw import Draw
from data_prep.demo.music import play
from data_prep.demo.scenes import Scene
from data_prep.demo.sounds import SOUNDS
from data_prep.demo.synth import RATE, Samples, in_room, length, to_peak, with_edges
from data_prep.demo.voices import say

EVENT_S = (0.35, 0.6)
GAP_S = (0.06, 0.14)
SILENCE_S = (0.03, 0.09)
"""Before the first sound and after the last."""
BACKGROUND_DB = (-26, -18)
"""Of the sound under speech, against the speech."""
NOISE_DB = (-55, -38)
"""Of the hiss under everything, against the clip's peak."""
LOUDNESS_DB = (-12, -1)
"""Of the clip's peak, against full scale."""
ROOM_S, ROOM_WET = (0.01, 0.04), (0.05, 0.25)


def render(scene: Scene, draw: Draw) -> Samples:
    """The samples of a scene, within [-1, 1]."""
    if scene.voice is not None:
        dry = speech(scene, draw)
    elif scene.kind == "music":
        dry = to_peak(play(draw, scene.instrument, scene.tempo, scene.direction))
    else:
        dry = events(scene, draw)
    before, after = (np.zeros(length(draw.between(*SILENCE_S))) for _ in range(2))
    wet = to_peak(in_room(np.concatenate([before, dry, after]), draw.rng, draw.ratio(*ROOM_S), draw.ratio(*ROOM_WET)))
    hiss = draw.rng.standard_normal(len(wet)) * in_decibel(draw.between(*NOISE_DB))
    return to_peak(wet + hiss, in_decibel(draw.between(*LOUDNESS_DB)))


def events(scene: Scene, draw: Draw) -> Samples:
    """One sound after the other, with short gaps."""
    pieces: list[Samples] = []
    for name in scene.sounds:
        if pieces:
            pieces.append(np.zeros(length(draw.between(*GAP_S))))
        sound = with_edges(SOUNDS[name](draw, draw.between(*EVENT_S)))
        pieces.append(to_peak(sound, draw.ratio(0.6, 1)))
    return np.concatenate(pieces)


def speech(scene: Scene, draw: Draw) -> Samples:
    """The words, with the background under them if there is one."""
    assert scene.voice is not None and scene.transcript is not None
    voice = to_peak(say(draw, scene.voice, scene.transcript))
    for name in scene.sounds:
        background = SOUNDS[name](draw, len(voice) / RATE)
        louder = np.sqrt(np.mean(voice**2) / np.mean(background**2))
        voice = voice + background * louder * in_decibel(draw.between(*BACKGROUND_DB))
    return voice


def in_decibel(decibel: float) -> float:
    """Decibels as a factor."""
    return float(10 ** (decibel / 20))


def write_clip(scene: Scene, path: Path, split: str, seed: tuple[int, ...]) -> float:
    """Render a scene to a file; returns its length in seconds."""
    samples = render(scene, Draw(np.random.default_rng(seed), split))
    audio.write(path, samples.astype(np.float32), RATE)
    return len(samples) / RATE
