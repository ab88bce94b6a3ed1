"""The few tools from which sounds and notes are made: time, tones, noise in a band, decay, edges, rooms.

Not here: what a siren or a violin is (sounds.py, music.py). Samples are float64 [L] at RATE Hz until they are written.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
"""Samples a second of the whole corpus."""

Samples = NDArray[np.float64]


def length(seconds: float) -> int:
    """Seconds as a number of samples."""
    return round(seconds * RATE)


def times(seconds: float) -> Samples:
    """The time of each sample, in seconds."""
    return np.arange(length(seconds)) / RATE


def phase_of(frequency_hz: Samples) -> Samples:
    """The phase, in radians, of an oscillator that follows a frequency [L]."""
    return 2 * np.pi * np.cumsum(frequency_hz) / RATE


def harmonics(frequency_hz: Samples, amplitudes: Sequence[float] | NDArray[np.float64]) -> Samples:
    """Overtones 1, 2, 3 ... of a moving frequency [L]; those above 7.5 kHz are left out."""
    phase = phase_of(frequency_hz)
    highest = int(7_500 / frequency_hz.max())
    total = np.zeros(len(phase))
    for number, amplitude in enumerate(amplitudes[:highest], start=1):
        total += amplitude * np.sin(number * phase)
    return total


def noise(rng: np.random.Generator, seconds: float, low_hz: float, high_hz: float) -> Samples:
    """Noise between two frequencies, with soft edges of half an octave; root mean square 1."""
    samples = length(seconds)
    size = 1 << (samples - 1).bit_length()  # a transform of another length takes far longer
    spectrum = np.fft.rfft(rng.standard_normal(size))
    octave = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / RATE), 1.0))
    inside = np.minimum(octave - np.log2(low_hz), np.log2(high_hz) - octave)
    shaped = np.fft.irfft(spectrum * np.clip(1 + 2 * inside, 0, 1), size)[:samples]
    return shaped / (np.sqrt(np.mean(shaped**2)) + 1e-9)


def decay(seconds: float, time_constant_s: float) -> Samples:
    """An envelope that falls from 1, by the factor e every `time_constant_s`."""
    return np.exp(-times(seconds) / time_constant_s)


def with_edges(samples: Samples, attack_s: float = 0.005, release_s: float = 0.01) -> Samples:
    """The same with a fade at both ends, so that nothing clicks."""
    rise, fall = (min(length(edge), len(samples)) for edge in (attack_s, release_s))
    shaped = samples.copy()
    shaped[:rise] *= np.linspace(0, 1, rise)
    shaped[len(shaped) - fall :] *= np.linspace(1, 0, fall)
    return shaped


def place(track: Samples, piece: Samples, at_s: float) -> None:
    """Add a piece to a track at a time; what runs past the end is cut."""
    begin = length(at_s)
    end = min(len(track), begin + len(piece))
    track[begin:end] += piece[: max(0, end - begin)]


def to_peak(samples: Samples, peak: float = 1.0) -> Samples:
    """The same at another loudness: its largest value is `peak`."""
    return samples * (peak / (np.abs(samples).max() + 1e-9))


def in_room(samples: Samples, rng: np.random.Generator, reverberation_s: float, wet: float) -> Samples:
    """The same in a small room: a tail of decaying noise, `wet` times as strong as the direct sound, is added."""
    tail = rng.standard_normal(length(4 * reverberation_s)) * decay(4 * reverberation_s, reverberation_s)
    tail *= wet / np.sqrt(np.sum(tail**2))
    response = np.concatenate([[1.0], tail])
    size = 1 << (len(samples) + len(response)).bit_length()
    both = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    return both[: len(samples)]
