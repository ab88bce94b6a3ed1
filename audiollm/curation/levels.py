"""What listening to a recording would tell at once: silence and clipping; and what its file says of itself."""

import io
import math
from typing import Any

import numpy as np
import soundfile

FULL_SCALE = 0.9999
"""The highest sample of 16 bits is 0.99997."""
CLIPPED_RUN = 3
"""So many samples at full scale in a row are clipping; a single one is a peak that was brought to full scale."""
SILENT_DB = -60.0


def is_clipped(samples: np.ndarray) -> bool:
    """Whether CLIPPED_RUN samples [L] in a row are at full scale."""
    full = np.abs(samples) >= FULL_SCALE
    if len(full) < CLIPPED_RUN or not full.any():
        return False
    return bool(np.lib.stride_tricks.sliding_window_view(full, CLIPPED_RUN).all(axis=1).any())


def loudness_db(samples: np.ndarray) -> float:
    """The mean power of samples [L] in dBFS; -inf where there is none."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return 10 * math.log10(power) if power else -math.inf


def header(source: Any) -> tuple[int | None, int | None]:
    """Sampling rate and number of channels as the file says; None where libsndfile does not read it.

    The sound itself has been opened by audio.py before, which refuses what is no ordinary file.
    """
    if isinstance(source, tuple):
        samples, rate = source
        return int(rate), min(np.shape(samples)) if np.ndim(samples) > 1 else 1
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            told = soundfile.info(file)
    except (soundfile.LibsndfileError, TypeError):
        return None, None
    return int(told.samplerate), int(told.channels)
