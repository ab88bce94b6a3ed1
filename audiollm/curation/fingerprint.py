"""The acoustic fingerprint of a clip: 32 signs of change every 10 ms, and which of them are large enough to be trusted.

    band       0   1   2  ...  32          33 bands, 250 to 3400 Hz, level in dB over a window of 256 ms
    frame n    L   L   L       L
    frame n-12 L   L   L       L           120 ms earlier
    bit m      is L(n, m) - L(n, m+1) larger than L(n-12, m) - L(n-12, m+1)?        after Haitsma and Kalker, 2002

Gain cancels, and what lies above 3.4 kHz plays no part. A bit is strong where the change exceeds 2 dB and both frames
are loud enough for their softer bands not to be noise: a steady tone and silence have no strong bits, so nothing can be
said of them. Not here: which clips are alike (overlap.py).
Shapes: L samples, F frames, B bands.
"""

from typing import NamedTuple

import numpy as np

RATE = 8_000
"""Samples a second that `fingerprint` takes."""
WINDOW = 2_048  # samples: 256 ms
HOP = 80  # samples: 10 ms, so that two clips are never more than 5 ms out of step
HOP_S = HOP / RATE
EARLIER = 12  # frames: about half a window, so that the two hardly share samples, and 5 ms out of step matter little
EDGES_HZ = np.geomspace(250, 3_400, 34)  # telephone speech and its resampling end at 3.4 kHz
STRONG_DB = 2.0
CERTAIN_DB = 0.1  # below it a bit is 0, so that bands without sound are the same in all clips
RANGE_DB = 40.0  # what lies further below the loudest band of its frame is codec noise
QUIETEST = 1e-10  # -100 dB of a full-scale sine: below, there are only the rounding errors of 16 bits
LOUD_DB = 10 * np.log10(QUIETEST) + RANGE_DB  # of the loudest band: in softer frames the floor depends on the gain
FRAMES_AT_ONCE = 512
MIN_FRAMES = 120
"""Frames of a clip, or of what two clips share: 1.2 s, which take 1.6 s of sound."""
MIN_STRONG = 320
"""Strong bits of a clip, or of what two clips share."""
VERSION = 2
"""To be raised when the same samples would give another fingerprint."""


class Fingerprint(NamedTuple):
    """8 bytes a frame: 7.7 kB for 10 s."""

    bits: np.ndarray  # [F] uint32
    strong: np.ndarray  # [F] uint32: the bits that can be trusted


def fingerprint(samples: np.ndarray) -> Fingerprint:
    """The fingerprint of samples [L] in [-1, 1] at 8 kHz; F is 0 for less than 0.376 s."""
    levels_FB = band_levels(samples)
    slopes = levels_FB[:, :-1] - levels_FB[:, 1:]
    change = slopes[EARLIER:] - slopes[:-EARLIER]
    loud_F = levels_FB.max(axis=1) > LOUD_DB
    both_F1 = (loud_F[EARLIER:] & loud_F[:-EARLIER])[:, None]
    return Fingerprint(_packed(change > CERTAIN_DB), _packed((np.abs(change) > STRONG_DB) & both_F1))


def reason_against(samples: np.ndarray, found: Fingerprint) -> str | None:
    """Why a clip cannot be told from others by its fingerprint; None where it can."""
    if len(found.bits) < MIN_FRAMES:
        return "too short"
    if np.abs(samples).max() ** 2 < 10 ** (LOUD_DB / 10):
        return "too quiet"
    return "too steady" if strong_bits(found) < MIN_STRONG else None


def strong_bits(found: Fingerprint) -> int:
    """How many of its bits can be trusted."""
    return int(np.bitwise_count(found.strong).sum(dtype=np.int64))


def band_levels(samples: np.ndarray) -> np.ndarray:
    """Levels [F, B] in dB; a few frames at a time, so that memory follows the samples."""
    samples = np.ascontiguousarray(samples, np.float32)
    if len(samples) < WINDOW:
        return np.empty((0, BANDS.shape[1]), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    pieces = []
    for begin in range(0, len(frames), FRAMES_AT_ONCE):
        spectra = np.fft.rfft(frames[begin : begin + FRAMES_AT_ONCE] * HANN)[:, FIRST_BIN:LAST_BIN]
        energy = (spectra.real**2 + spectra.imag**2) @ BANDS
        floor = energy.max(axis=1, keepdims=True) * 10 ** (-RANGE_DB / 10) + QUIETEST
        pieces.append(10 * np.log10(energy + floor))
    return np.concatenate(pieces)


def _packed(bits: np.ndarray) -> np.ndarray:
    """Booleans [F, 32] as uint32 [F]."""
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").reshape(-1)


def _bands() -> tuple[np.ndarray, int, int]:
    """Which bins of the spectrum belong to which band [bins, B], and the first and last of these bins."""
    bins_hz = np.fft.rfftfreq(WINDOW, 1 / RATE)
    inside = (bins_hz[:, None] >= EDGES_HZ[:-1]) & (bins_hz[:, None] < EDGES_HZ[1:])
    used = np.flatnonzero(inside.any(axis=1))
    first, last = int(used[0]), int(used[-1]) + 1
    return inside[first:last].astype(np.float32), first, last


BANDS, FIRST_BIN, LAST_BIN = _bands()
HANN = (np.hanning(WINDOW + 1)[:-1] * 4 / WINDOW).astype(np.float32)  # a full-scale sine has energy 1 in its bin
