"""The only door for sound: read a clip or a part of it, mix to mono, resample, write.

Not here: spectrograms and padding (the encoders own their front ends), augmentation, downloads.
soundfile decodes; PyAV decodes what soundfile cannot open and what does not say how long it is; soxr resamples.
Shapes: L samples of one channel, C channels. Seconds end in `_s`; positions without a unit count samples of a channel.
"""

import base64
import binascii
import hashlib
import io
import math
import os
import re
import signal
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import numpy as np
import soundfile as sf
import soxr


class AudioDecoder(Protocol):
    """What the audio column of a `datasets.Dataset` holds when it decodes (torchcodec's decoder)."""

    def get_all_samples(self) -> Any:
        """An object with `data`, a tensor [C, L] of floats, and `sample_rate`."""


AudioSource = str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, Any] | tuple[Any, int] | AudioDecoder

_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000  # Hz; outside this range a header is damaged or a number is not a rate
_LOUDEST = (
    100.0  # floats beyond it are integers that were never scaled, or damage; a little over 1 is usual and clipped
)
_END_TOLERANCE_S = 0.05  # how far `end` may lie behind the last sample: times in annotations are rounded
_HEADER_SLACK_S = 0.05  # how much longer than its sound an mp4 or webm may claim to be: padding, rounding to packets
_MP3_SLACK = 1152  # one MPEG frame: some encoders count the one that holds the count
_HEADER_SLACK_BYTES = 64  # some writers of plain PCM count the header as sound
_BLOCK = 1 << 16  # values decoded at once, so that memory follows the sound and not what the header claims
_PREROLL_S = 0.5  # decoded and dropped after a jump: a codec needs the packets before the one that is wanted

# What PyAV may open. Without a list, a text file that names other files or URLs would be followed like a playlist.
_PYAV_CONTAINERS = "mp4,matroska,webm,aac,mp3,flac,wav,ogg,asf,avi,amr,flv,mpegts"
_SUFFIX_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OPUS", ".mp3": "MP3"}


class AudioError(ValueError):
    """Sound that cannot be had. `str(error)` is "<name>: <cause>"."""

    def __init__(self, name: str, cause: str = "") -> None:
        super().__init__(name, cause)
        self.name = name
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.name}: {self.cause}" if self.cause else self.name


def load(
    source: AudioSource, sampling_rate: int, *, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Read a clip as mono float32 samples [L] in [-1, 1] at `sampling_rate` Hz.

    `source` is one of
      - a path, the bytes of a file, an open binary file (read from its beginning), a `data:` URI in base64;
      - (array, rate): [L], [C, L] or [L, C], the shorter axis being the channels; floats, or integers scaled by type;
      - a value of a Hugging Face audio column: a decoder, {"array", "sampling_rate"}, {"bytes", "path"},
        or {"context": any of these}.
    `start` and `end` in seconds choose a part: what follows it is not decoded, and where the format allows a jump,
    neither is what precedes it. An `end` up to 0.05 s beyond the last sample means the last sample.

    Raises AudioError for a file that is missing, empty, cut off, damaged or not sound, for samples that are not finite,
    and for times outside the clip.
    """
    with _errors_named(name_of(source)), _reader_of(source) as reader:
        _check_rate(sampling_rate)
        _check_times(start, end)
        samples = _read_part(reader, start or 0.0, end)
        _check_samples(samples)
        samples = resample(samples, reader.rate, sampling_rate)
        if not len(samples):
            raise _Problem(f"too short to give a single sample at {sampling_rate} Hz")
        return np.clip(samples, -1.0, 1.0)  # decoders and the resampler overshoot loud peaks a little


def duration(source: AudioSource) -> float:
    """The length of a clip in seconds, without decoding it where its header tells. Takes what `load` takes.

    Exact where headers count samples (wav, flac, ogg, opus, mp3 with a Xing header, mp4); webm counts milliseconds.
    Raises AudioError like `load`, but for damage that only decoding can find.
    """
    with _errors_named(name_of(source)), _reader_of(source) as reader:
        length_s = reader.length_s
        if length_s is None:
            length_s = sum(len(block) for block in reader.blocks(0)) / reader.rate
        if not length_s:
            raise _Problem("no samples")
        return length_s


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Samples [L] at `from_rate` Hz as float32 [round(L * to_rate / from_rate)] at `to_rate` Hz (soxr, high quality).

    Raises AudioError for a rate outside 1 kHz to 1 MHz.
    """
    with _errors_named("<array>"):
        _check_rate(from_rate)
        _check_rate(to_rate)
        samples = np.asarray(samples, dtype=np.float32)
        return samples if from_rate == to_rate else soxr.resample(samples, from_rate, to_rate, quality="HQ")


def encode(samples: np.ndarray, sampling_rate: int, format: str = "FLAC") -> bytes:
    """Samples [L] in [-1, 1] as the bytes of a sound file: "WAV" and "FLAC" (16 bit), "OGG" (Vorbis), "OPUS" or "MP3".

    Raises AudioError for samples that are empty, not finite or not [L], and for a rate that the format does not have.
    """
    with _errors_named("<array>"):
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1 or not len(samples):
            raise _Problem(f"needs samples of shape [L], got {list(samples.shape)}")
        _check_samples(samples)
        _check_rate(sampling_rate)
        if format.upper() not in _SUFFIX_FORMATS.values():
            raise _Problem(f"unknown format {format!r}; known: {', '.join(_SUFFIX_FORMATS.values())}")
        container, subtype = ("OGG", "OPUS") if format.upper() == "OPUS" else (format.upper(), None)
        out = io.BytesIO()
        with _uninterrupted(), sf.SoundFile(out, "w", int(sampling_rate), 1, format=container, subtype=subtype) as file:
            for begin in range(0, len(samples), _BLOCK):  # in one piece, libsndfile overflows its stack on long Vorbis
                file.write(np.clip(samples[begin : begin + _BLOCK], -1.0, 1.0))
        return out.getvalue()


def write(path: str | os.PathLike[str], samples: np.ndarray, sampling_rate: int) -> None:
    """Write samples [L] in [-1, 1] to a file; its suffix says how: .wav, .flac (16 bit), .ogg, .opus or .mp3.

    Raises AudioError like `encode`, with the file's name, and for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIX_FORMATS:
        raise AudioError(
            str(path), f"cannot write {path.suffix or 'without a suffix'}; use {', '.join(_SUFFIX_FORMATS)}"
        )
    try:
        path.write_bytes(encode(samples, sampling_rate, _SUFFIX_FORMATS[path.suffix.lower()]))
    except AudioError as error:
        raise AudioError(str(path), error.cause) from error


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes; AudioError, by the file's name, for what is no file that holds anything."""
    with _errors_named(name_of(path)), _open(os.fspath(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a FileIO here


def other_than_file(path: str | os.PathLike[str]) -> str | None:
    """What stands at a path in the place of a file, in words: a folder, a pipe; None for a file and for nothing."""
    try:
        return _other_than_file(os.stat(path).st_mode)
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return None


def name_of(source: Any) -> str:
    """What to call a source in a message: its path where it has one, else "<bytes>", "<array>", "<file>" ..."""
    if isinstance(source, str) and source.startswith("data:"):
        return "<data: URI>"
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        return path if len(path) <= 300 else f"{path[:100]}... ({len(path)} characters)"
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    if isinstance(source, Mapping):
        inner = source.get("path") or source.get("bytes") or source.get("context")
        return "<array>" if inner is None else name_of(inner)
    if isinstance(source, tuple | list | np.ndarray):
        return "<array>"
    if hasattr(source, "read"):
        return source.name if isinstance(getattr(source, "name", None), str) else "<file>"
    return f"<{type(source).__name__}>"


# ---- errors ----------------------------------------------------------------------------------------------------------


class _Problem(Exception):
    """A cause without a name yet; `_errors_named` adds the name."""


# What the decoders raise on damaged input, found by feeding them some.
_DECODER_ERRORS = (av.FFmpegError, RuntimeError, ValueError, OSError, ArithmeticError, MemoryError, LookupError)


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turn whatever goes wrong with a source into an AudioError with its name."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # damaged floats; _check_samples says it in words
            yield
    except AudioError:
        raise
    except (_Problem, *_DECODER_ERRORS) as error:
        raise AudioError(name, _cause(error)) from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and the like wait until the end of this.

    libsndfile reads and writes bytes through Python: what is raised in there is printed, and it goes on with less.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    caught: dict[int, Any] = {}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    raising = {number: handler for number, handler in before.items() if callable(handler)}
    for number in raising:
        signal.signal(number, caught.__setitem__)
    try:
        yield
    finally:
        for number, handler in raising.items():
            signal.signal(number, handler)
        for came, frame in caught.items():
            raising[signal.Signals(came)](came, frame)


def _cause(error: BaseException) -> str:
    """One phrase for an error of the decoders or the operating system."""
    if isinstance(error, _Problem):
        return str(error)
    if isinstance(error, sf.LibsndfileError):
        return error.error_string.strip().rstrip(".") or "damaged"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError | av.FFmpegError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"


def _cut_off(there: int, promised: int) -> _Problem:
    return _Problem(f"cut off or damaged: only {there:,} of {promised:,} samples can be decoded")


def _check_rate(rate: Any) -> int:
    if (
        not isinstance(rate, int | float | np.integer | np.floating)
        or not _LOWEST_RATE <= rate <= _HIGHEST_RATE
        or rate != int(rate)
    ):
        raise _Problem(f"{rate!r} is not a sampling rate; it must be a number of {_LOWEST_RATE} to {_HIGHEST_RATE} Hz")
    return int(rate)


def _check_times(start_s: float | None, end_s: float | None) -> None:
    for name, time_s in (("start", start_s), ("end", end_s)):
        if time_s is not None and not (math.isfinite(time_s) and time_s >= 0):
            raise _Problem(f"{name}={time_s} must be a time in seconds, 0 or more")
    if end_s is not None and end_s <= (start_s or 0.0):
        raise _Problem(f"end={end_s} s must be greater than start={start_s or 0.0} s")


def _check_samples(samples: np.ndarray) -> None:
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise _Problem("has samples that are not finite (NaN or infinity)")
    if peak > _LOUDEST:
        raise _Problem(
            f"has samples up to {peak:.6g}, but floats must lie in [-1, 1]; give integers as an integer type"
        )


# ---- the part that is wanted -----------------------------------------------------------------------------------------


class _Reader(Protocol):
    """A clip that is open for reading."""

    @property
    def rate(self) -> int:
        """Samples a second."""

    @property
    def length_s(self) -> float | None:
        """What the header tells; None where it tells nothing that can be relied on."""

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """Mono float32 blocks [n] from sample `first` to the end; raises `_Problem` if the end comes too early."""

    def close(self) -> None:
        """Give back what it holds."""


def _read_part(reader: _Reader, start_s: float, end_s: float | None) -> np.ndarray:
    """The samples [L] between two times, at the clip's own rate."""
    if reader.length_s is not None:
        _check_inside(start_s, end_s, reader.length_s)
    first = round(start_s * reader.rate)
    wanted = math.inf if end_s is None else round(end_s * reader.rate) - first
    if not wanted:
        raise _Problem(f"there is no sample between start={start_s} s and end={end_s} s")
    pieces: list[np.ndarray] = []
    count = 0
    try:
        for block in reader.blocks(first):
            pieces.append(block[: int(min(wanted - count, len(block)))])
            count += len(pieces[-1])
            if count == wanted:
                break
    except _DECODER_ERRORS as error:
        raise _Problem(f"damaged at {(first + count) / reader.rate:.2f} s ({_cause(error)})") from error
    _check_inside(start_s, None if count == wanted else end_s, (first + count) / reader.rate if count else 0.0)
    return np.concatenate(pieces)


def _check_inside(start_s: float, end_s: float | None, length_s: float) -> None:
    if not length_s and not start_s:
        raise _Problem("no samples")
    if start_s >= length_s:
        raise _Problem(f"start={start_s} s is beyond its end" + (f" at {length_s:.3f} s" if length_s else ""))
    if end_s is not None and end_s > length_s + _END_TOLERANCE_S:
        raise _Problem(f"end={end_s} s is beyond its end at {length_s:.3f} s")


# ---- readers ---------------------------------------------------------------------------------------------------------


class _ArrayReader:
    """Samples that are already in memory."""

    def __init__(self, samples: Any, rate: Any) -> None:
        self.rate = _check_rate(rate)
        self._samples = _mono(np.asarray(samples))
        self.length_s: float | None = len(self._samples) / self.rate

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        yield self._samples[first:]

    def close(self) -> None:
        pass


class _SoundFile(sf.SoundFile):
    """A sound file that is read on and on: python-soundfile would jump to where it stands after each block.

    That jump is not neutral: MP3 loses what it remembers of the packets before, and some milliseconds fall silent.
    """

    def seekable(self) -> bool:
        return False


class _LengthUnknown(Exception):
    """libsndfile only guesses the number of samples, and stops there even if there are more."""


class _SoundfileReader:
    """wav, flac, ogg, opus, mp3 and what else libsndfile knows; `file` stands at its beginning."""

    def __init__(self, file: BinaryIO) -> None:
        has_count = _mp3_has_count(file)
        file.seek(0)
        try:  # by its number, a file is read without Python in between, and its suffix plays no part
            self._file = _SoundFile(file.fileno(), closefd=False)
        except io.UnsupportedOperation:
            with _uninterrupted():
                self._file = _SoundFile(file)
        frames = self._file.frames
        if (self._file.format == "MP3" and not has_count) or frames > 1 << 40:  # a FLAC stream claims 2**63 - 1
            raise _LengthUnknown
        self.rate = _check_rate(self._file.samplerate)
        self.length_s: float | None = frames / self.rate
        self._check_whole()

    def _check_whole(self) -> None:
        """libsndfile shortens a file that is cut off to what is there, and says so in its log only."""
        log = self._file.extra_info
        if self._file.format == "OGG" and "Junk after the last page" in log:
            raise _Problem("cut off in the middle of a page")
        sizes = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", log)
        if sizes and self._file.frames:
            claimed, there = int(sizes[1]), int(sizes[2])
            is_stream = claimed >= (1 << 31) - (1 << 20)  # the largest size, put there when the end was not known yet
            if claimed > there + _HEADER_SLACK_BYTES and not is_stream:
                raise _cut_off(self._file.frames, round(self._file.frames * claimed / there))

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        with _uninterrupted():
            begin = position = self._file.seek(max(0, first - round(_PREROLL_S * self.rate)))
        while len(block_LC := self._read()):
            yield block_LC[max(0, first - position) :].mean(axis=1)
            position += len(block_LC)
        slack = _MP3_SLACK if self._file.format == "MP3" else 0
        if position < self._file.frames - slack:
            if position == begin > 0:  # nothing at all after a jump: where the sound ends is not known
                raise _Problem(f"cut off or damaged before {position / self.rate:.2f} s")
            raise _cut_off(position, self._file.frames)

    def _read(self) -> np.ndarray:
        """The next samples [n, C]; none at the end or where the file is damaged (`blocks` tells these apart)."""
        try:
            with _uninterrupted():
                return self._file.read(max(1, _BLOCK // self._file.channels), dtype="float32", always_2d=True)
        except sf.LibsndfileError:
            return np.empty((0, self._file.channels), dtype=np.float32)

    def close(self) -> None:
        self._file.close()


def _mp3_has_count(file: BinaryIO) -> bool:
    """Does the first MPEG frame count the others (Xing or Info header)? Otherwise libsndfile guesses from the size."""
    tag = file.read(10)
    if tag[:3] == b"ID3":  # the tag's size is four bytes of seven bits
        size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=False))
        file.seek(10 + size)
    else:
        file.seek(0)
    first_frame = file.read(64)
    return b"Xing" in first_frame or b"Info" in first_frame


class _PyAVReader:
    """m4a, mp4, webm and what else FFmpeg demuxes; `file` stands at its beginning."""

    def __init__(self, file: BinaryIO) -> None:
        options = {"format_whitelist": _PYAV_CONTAINERS}
        self._container = av.open(file, "r", options=options, metadata_errors="replace")
        if not self._container.streams.audio:
            raise _Problem("holds no sound")
        self._stream = self._container.streams.audio[0]
        self._frames = self._container.decode(self._stream)
        first_frame = next(self._frames, None)
        if first_frame is None:
            raise _Problem("no samples")
        self._first_frame = first_frame
        self.rate = _check_rate(first_frame.sample_rate)  # the header's may be half of it (HE-AAC)
        self._time_base = self._stream.time_base or Fraction(1, self.rate)
        self._is_mp4 = "mp4" in self._container.format.name.split(",")
        self.length_s = self._told_length_s()

    def _told_length_s(self) -> float | None:
        """Only mp4 and matroska write down a length; for others FFmpeg guesses one."""
        if self._is_mp4:
            return float((self._stream.duration or 0) * self._time_base) or None
        if "matroska" in self._container.format.name.split(",") and len(self._container.streams) == 1:
            return (self._container.duration or 0) / av.time_base or None
        return None

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        position, frames = self._frames_from(first)
        last = round(self.length_s * self.rate) if self._is_mp4 and self.length_s else None  # what follows is padding
        frame = self._first_frame
        for frame in frames:
            if frame.sample_rate != self.rate:
                raise _Problem(f"its sampling rate changes from {self.rate} to {frame.sample_rate} Hz")
            block = _mono_frame(frame)[: None if last is None else max(0, last - position)]
            yield block[max(0, first - position) :]
            position += len(block)
        if self.length_s is not None:
            end_s = self._time_s(frame) + frame.samples / self.rate
            if end_s < self.length_s - _HEADER_SLACK_S:
                raise _cut_off(round(end_s * self.rate), round(self.length_s * self.rate))

    def _frames_from(self, first: int) -> tuple[int, Iterator[av.AudioFrame]]:
        """Frames from sample `first` or somewhat before it, and the position of the first of them.

        Only mp4 has times that are exact to the sample (webm: to the millisecond); others are decoded from the start.
        """
        jump_s = first / self.rate - _PREROLL_S
        if not self._is_mp4 or jump_s <= 0:
            return 0, chain([self._first_frame], self._frames)
        target = (self._first_frame.pts or 0) + int(jump_s / self._time_base)
        self._container.seek(target, stream=self._stream)
        frames = self._container.decode(self._stream)
        frame = next(frames, None)
        if frame is None:
            return first, iter(())
        position = round(self._time_s(frame) * self.rate)
        if position > first:
            raise _Problem(f"its index is damaged: a jump to {jump_s:.2f} s ends at {self._time_s(frame):.2f} s")
        return position, chain([frame], frames)

    def _time_s(self, frame: av.AudioFrame) -> float:
        """When a frame begins, counted from the beginning of the first."""
        if frame.pts is None or self._first_frame.pts is None:
            raise _Problem("has packets without a time")
        return float((frame.pts - self._first_frame.pts) * self._time_base)

    def close(self) -> None:
        self._container.close()


def _mono_frame(frame: av.AudioFrame) -> np.ndarray:
    """A decoded frame as mono float32 [n]."""
    array = frame.to_ndarray()  # planar [C, n] or interleaved [1, n * C]
    array_CL = array if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels).T
    return _as_float(array_CL).mean(axis=0)


def _mono(samples: np.ndarray) -> np.ndarray:
    """An array [L], [C, L] or [L, C] as mono float32 [L]; the shorter axis is the channels, the first when equal."""
    if samples.ndim not in (1, 2):
        raise _Problem(f"samples must have the shape [L], [C, L] or [L, C], got {list(samples.shape)}")
    samples = _as_float(samples)
    if samples.ndim == 1 or not samples.size:
        return samples.reshape(-1)
    return samples.mean(axis=0 if samples.shape[0] <= samples.shape[1] else 1)


def _as_float(samples: np.ndarray) -> np.ndarray:
    """Samples of any usual type as float32; the full scale of an integer type becomes 1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    if samples.dtype.kind not in "iu" or samples.dtype.itemsize > 4:
        raise _Problem(f"samples of type {samples.dtype} have no known full scale; give float32, int16 or int32")
    full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
    middle = full_scale if samples.dtype.kind == "u" else 0.0
    return ((samples.astype(np.float64) - middle) / full_scale).astype(np.float32)


# ---- sources ---------------------------------------------------------------------------------------------------------


@contextmanager
def _reader_of(source: Any) -> Iterator[_Reader]:
    """Open any source for reading."""
    plain = _unwrap(source)
    if isinstance(plain, tuple):
        yield _ArrayReader(*plain)
    else:
        with _open(plain) as file, closing(_file_reader(file)) as reader:
            yield reader


def _file_reader(file: BinaryIO) -> _Reader:
    """The reader that can read a file."""
    try:
        return _SoundfileReader(file)
    except (sf.LibsndfileError, _LengthUnknown) as error:
        file.seek(0)
        try:
            return _PyAVReader(file)
        except av.FFmpegError as other:
            if isinstance(error, _LengthUnknown):
                raise
            raise _Problem(
                f"not a sound file, or a damaged one (soundfile: {_cause(error)}; PyAV: {_cause(other)})"
            ) from other


def _unwrap(source: Any) -> tuple[Any, Any] | bytes | str:
    """Reduce a source to (array, rate), the bytes of a file or a path."""
    if isinstance(source, str) and source.startswith("data:"):
        return _decode_data_uri(source)
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, Mapping):
        return _unwrap_mapping(source)
    if isinstance(source, tuple) and len(source) == 2:
        return source
    if hasattr(source, "get_all_samples"):
        samples = source.get_all_samples()
        return samples.data, samples.sample_rate
    if hasattr(source, "read"):
        return _read_all(source)
    raise _Problem(
        f"{type(source).__name__} is not sound; give a path, bytes, an open file, a data: URI, (array, rate) "
        "or a value of a Hugging Face audio column"
    )


def _unwrap_mapping(source: Mapping[str, Any]) -> tuple[Any, Any] | bytes | str:
    if source.get("array") is not None:
        if source.get("sampling_rate") is None:
            raise _Problem("has an array, but no sampling_rate")
        return source["array"], source["sampling_rate"]
    for key in ("bytes", "path", "context"):
        if source.get(key) is not None:
            return _unwrap(source[key])
    raise _Problem(f"has none of the keys array, bytes, path and context; it has {sorted(map(str, source))}")


def _read_all(file: Any) -> bytes:
    """All bytes of an open file, from its beginning if it can go there."""
    if file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise _Problem('is open as text; open it with mode "rb"')
    return content


def _decode_data_uri(uri: str) -> bytes:
    head, comma, content = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise _Problem("must look like data:audio/wav;base64,...")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise _Problem(f"is not valid base64 ({error})") from error


def _other_than_file(mode: int) -> str | None:
    if stat.S_ISREG(mode):
        return None
    return "is a folder, not a file" if stat.S_ISDIR(mode) else "is not an ordinary file"


def _open(source: bytes | str) -> BinaryIO:
    """A path or the bytes of a file as a file."""
    if isinstance(source, bytes):
        if not source:
            raise _Problem("empty (0 bytes)")
        return io.BytesIO(source)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        raise _Problem("is a URL; download the file and give its path")
    status = os.stat(source)
    if other := _other_than_file(status.st_mode):  # a pipe would wait for ever
        raise _Problem(other)
    if not status.st_size:
        raise _Problem("empty (0 bytes)")
    return open(source, "rb", buffering=0)  # libsndfile reads by the file's number, past any buffer
