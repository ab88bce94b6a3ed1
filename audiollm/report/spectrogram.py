"""A clip as a picture: log-mel spectrogram, drawn as a PNG without an imaging library.

Not here: the features that a model hears (each encoder owns its front end).
Shapes: L samples, T columns in time, F bins of the transform, M mel bands.
"""

import struct
import zlib

import numpy as np

# From silence to loud: black, blue, purple, red, orange, yellow, pale yellow.
COLOURS = ("000004", "280b54", "65156e", "9f2a63", "d44842", "f57d15", "fac127", "fcffa4")
RANGE_DB = 70.0
SILENCE_DB = -30.0
"""A clip whose loudest point is below this is drawn dark, instead of its noise as if it were loud."""


def log_mel(samples_L: np.ndarray, sampling_rate: int, *, bands: int = 80, columns: int = 480) -> np.ndarray:
    """Decibels below the loudest point, [M, T] with T <= `columns`; 0 is the loudest, RANGE_DB below it is silence."""
    from transformers.audio_utils import mel_filter_bank

    hop = max(sampling_rate // 200, -(-len(samples_L) // columns))
    window = 1 << (max(sampling_rate // 40, hop) - 1).bit_length()  # at least 25 ms, and no sample between two windows
    padded_L = np.pad(samples_L, (window // 2, window // 2 + hop))
    frames_TW = np.lib.stride_tricks.sliding_window_view(padded_L, window)[: max(len(samples_L), 1) : hop]
    power_TF = np.abs(np.fft.rfft(frames_TW * np.hanning(window), axis=1)) ** 2
    filters_FM = mel_filter_bank(window // 2 + 1, bands, 0.0, sampling_rate / 2, sampling_rate, mel_scale="htk")
    mel_MT = (power_TF @ filters_FM).T
    decibels_MT = 10 * np.log10(np.maximum(mel_MT, 1e-10))
    loudest = max(decibels_MT.max(), SILENCE_DB)
    return np.clip(decibels_MT - loudest, -RANGE_DB, 0.0)


def png(decibels_MT: np.ndarray) -> bytes:
    """The picture: time to the right, low bands at the bottom, one byte a point and a table of colours."""
    levels_MT = np.round(255 * (1 + decibels_MT[::-1] / RANGE_DB)).astype(np.uint8)
    height, width = levels_MT.shape
    anchors = np.linspace(0, 255, len(COLOURS))
    channels = np.array([list(bytes.fromhex(colour)) for colour in COLOURS]).T
    palette = np.stack([np.interp(np.arange(256), anchors, channel) for channel in channels], axis=1)
    rows = np.pad(levels_MT, ((0, 0), (1, 0)))  # a zero before each row: "this row is not filtered"
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, indexed colours
    colours = palette.round().astype(np.uint8).tobytes()
    chunks = {b"IHDR": header, b"PLTE": colours, b"IDAT": zlib.compress(rows.tobytes(), 9), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks.items())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
