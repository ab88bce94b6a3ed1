"""Speech by espeak-ng: the voices of training and of test, and one function that speaks.

Not here: what is said (words.py). espeak-ng comes as a shared library in the wheel `espeakng-loader`; it is under the
GPL, and so is that wheel, but what it speaks is not.
"""

import _ctypes
import ctypes
from dataclasses import dataclass

import espeakng_loader
import numpy as np

from audiollm import audio
from data_prep.demo.draw import Draw
from data_prep.demo.synth import RATE, Samples, length

ACCENTS = ("en-US", "en")
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "woman": ("f1", "f3", "Annie", "linda", "belinda", "shelby", "steph", "anika", "Alicia", "Andrea"),
        "man": ("m1", "m2", "m3", "m4", "m7", "max", "pablo", "adam", "david", "paul"),
    },
    "test": {"woman": ("f2", "f4"), "man": ("m6", "michel")},
}
"""Split -> gender -> variants of espeak-ng, which differ in pitch, formants, breath and roughness."""
VARIANTS["validation"] = VARIANTS["train"]
GENDERS = ("woman", "man")

WORDS_A_MINUTE = (185, 245)
PITCH = (40, 60)
"""Of espeak-ng's scale, on which 50 is the voice's own pitch."""

_SYNCHRONOUS, _UTF8 = 2, 1
_RATE, _PITCH = 1, 3
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, order=True)
class Voice:
    """One speaker."""

    gender: str
    accent: str
    variant: str


def voices(split: str) -> list[Voice]:
    """Every speaker of a split."""
    return [
        Voice(gender, accent, variant)
        for gender, variants in VARIANTS[split].items()
        for variant in variants
        for accent in ACCENTS
    ]


def say(draw: Draw, voice: Voice, text: str) -> Samples:
    """A voice speaks, at a rate and pitch drawn at random; the silence around it is cut off."""
    rate, pitch = int(draw.between(*WORDS_A_MINUTE)), int(draw.between(*PITCH))
    samples, samples_a_second = synthesise(text, voice, rate, pitch)
    return trimmed(audio.resample(samples, samples_a_second, RATE).astype(np.float64))


def synthesise(text: str, voice: Voice, words_a_minute: int, pitch: int) -> tuple[np.ndarray, int]:
    """Speech as float32 [L] and its sampling rate; the same arguments always give the same samples.

    The library keeps hidden state from one utterance to the next (flutter, echo, gain), which no call resets: it is
    loaded and unloaded for each. That takes 5 ms.
    """
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[np.ndarray] = []

    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int | None) -> int:
        if count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(receive)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0)
    library.espeak_SetSynthCallback(callback)
    failed = library.espeak_SetVoiceByName(f"gmw/{voice.accent}+{voice.variant}".encode())
    assert not failed, f"espeak-ng has no voice {voice}"
    library.espeak_SetParameter(_RATE, words_a_minute, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    content = text.encode() + b"\0"
    library.espeak_Synth(content, len(content), 0, 0, 0, _UTF8, None, None)
    library.espeak_Terminate()
    _ctypes.dlclose(library._handle)
    return np.concatenate(chunks).astype(np.float32) / 32768, rate


def trimmed(samples: Samples, threshold: float = 0.02, margin_s: float = 0.01) -> Samples:
    """The same from the first to the last sample above `threshold` times the peak, and a little more."""
    loud = np.flatnonzero(np.abs(samples) > threshold * np.abs(samples).max())
    margin = length(margin_s)
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]
