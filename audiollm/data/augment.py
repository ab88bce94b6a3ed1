"""Augmentation: noise, gain, speed, reverberation, silence, a second clip, and stripes taken out of the spectrogram.

Each function takes float32 samples [L] in [-1, 1] and explicit numbers or a numpy Generator, and returns new samples of
that kind; none writes to what it is given. Where a mixture would go beyond [-1, 1], all of it is made quieter, so that
ratios hold. Silent clips, which no ratio fits, are refused by the functions and left as they are by `augment`.

`augment` draws from (seed parts, name of the augmentation) alone, so a clip is changed in the same way whatever the
worker, the rank or a resume, and turning on one augmentation does not change what another draws. The same bits need the
same releases of numpy and soxr on the same kind of processor.
Not here: decoding (audio.py), who calls it and with which seed, frames that are already encoded (data/features.py).
Shapes: L samples, M samples of another clip.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from audiollm.audio import resample

Overload = Literal["limit", "clip"]
Range = tuple[float, float]

SNR_DB: Range = (-60.0, 120.0)
GAIN_DB: Range = (-120.0, 120.0)
SPEED: Range = (0.25, 4.0)
RT60_S: Range = (0.01, 20.0)
SILENCE_S: Range = (0.0, 600.0)
RATE_HZ: Range = (1_000.0, 1_000_000.0)
"""What each number may be."""

SILENT_RMS = 1e-6
"""Quieter than the rounding of 16 bits (-120 dB of full scale): has no level that a ratio could refer to."""
PINK_PERIOD = 1 << 20
"""Samples after which pink noise repeats (65 s at 16 kHz), so that memory does not follow the clip."""
SPEED_STEPS = 100_000
"""A speed is a whole number of these, because rates are whole numbers."""
MEL_BANDS = 80
FRAME_S = 0.01
"""What widths of stripes count: bands of equal width on the mel scale, frames in time, as most encoders have them."""


# ---- sound -----------------------------------------------------------------------------------------------------------


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float, start: int = 0) -> np.ndarray:
    """Noise [M] from its sample `start`, looped or cut to [L], `snr_db` decibels below the samples' mean power.

    The mixture is made quieter as a whole where its peak would exceed 1. ValueError for a silent clip or noise.
    """
    return _mix(_checked(samples), looped(_checked(noise, "noise"), len(samples), start), snr_db, "noise")


def overlap(samples: np.ndarray, other: np.ndarray, ratio_db: float, start: int = 0) -> np.ndarray:
    """Another clip [M] laid over the samples, `ratio_db` decibels below them; the length stays [L].

    The other begins at sample `start` (below 0: its first samples are left out) and ends with the shorter of both. The
    ratio is that of the mean power of the clip to the mean power of what is heard of the other. The mixture is made
    quieter as a whole where its peak would exceed 1. ValueError if either is silent.
    """
    samples, other = _checked(samples), _checked(other, "the other clip")
    heard = other[max(-start, 0) : max(len(samples) - start, 0)]
    if not len(heard):
        raise ValueError(f"start={start} leaves nothing of the other clip; give {1 - len(other)} to {len(samples) - 1}")
    return _mix(samples, heard, ratio_db, "the other clip", max(start, 0))


def white_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise [length] float32, equally strong at all frequencies, its peak at 1."""
    return _at_peak(rng.standard_normal(length))


def pink_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise [length] float32 whose power falls by 3 dB an octave, its peak at 1; repeats after PINK_PERIOD samples."""
    period = min(1 << max(length - 1, 1).bit_length(), PINK_PERIOD)
    spectrum = np.fft.rfft(rng.standard_normal(period))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0.0
    return _at_peak(np.resize(np.fft.irfft(spectrum, period), length))


def gain(samples: np.ndarray, gain_db: float, overload: Overload = "limit") -> np.ndarray:
    """Samples `gain_db` decibels louder (below 0: quieter).

    What would exceed 1: "limit" applies only as much gain as brings the peak to 1; "clip" applies all of it and
    flattens the peaks.
    """
    if overload not in ("limit", "clip"):
        raise ValueError(f"overload={overload!r} is not a clipping policy; known: limit, clip")
    louder = _checked(samples).astype(np.float64) * 10.0 ** (_number("gain_db", gain_db, GAIN_DB, " dB") / 20)
    return _limited(louder) if overload == "limit" else np.clip(louder, -1.0, 1.0).astype(np.float32)


def speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Samples played `factor` times as fast, by resampling: tempo and pitch both change by the factor.

    The factor is rounded to 1/100000; the length is L / factor rounded to the nearest (halves up), and at least 1. As
    in `audio.load`, the little by which a resampler overshoots loud peaks is clipped.
    """
    samples = _checked(samples)
    steps = round(_number("factor", factor, SPEED, "") * SPEED_STEPS)
    if steps == SPEED_STEPS:
        return samples.copy()
    length = length_at_speed(len(samples), factor)
    played = np.zeros(length, np.float32)
    found = np.clip(resample(samples, steps, SPEED_STEPS)[:length], -1.0, 1.0)
    played[: len(found)] = found
    return played


def length_at_speed(num_samples: int, factor: float) -> int:
    """The number of samples that `speed` makes of this many."""
    steps = round(factor * SPEED_STEPS)
    return max((2 * num_samples * SPEED_STEPS + steps) // (2 * steps), 1)


def impulse_response(rt60_s: float, rate: int, rng: np.random.Generator, direct_db: float = 0.0) -> np.ndarray:
    """A room [M] float32: the direct sound, then Gaussian noise that decays by 60 dB in `rt60_s` seconds.

    1 |             `direct_db` is the energy of the direct sound above that of all the rest.
      | :.
      | ::::...     It ends after `rt60_s`.
    """
    rt60_s, rate = _number("rt60_s", rt60_s, RT60_S, " s"), _rate(rate)
    ratio_db = _number("direct_db", direct_db, SNR_DB, " dB")
    times_s = np.arange(1, max(math.ceil(rt60_s * rate), 2)) / rate
    tail = rng.standard_normal(len(times_s)) * 10.0 ** (-3.0 * times_s / rt60_s)
    tail *= 10.0 ** (-ratio_db / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], tail]).astype(np.float32)


def reverberate(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Samples as heard in a room with this impulse response [M] (any finite scale, at the samples' rate).

    The response counts from its strongest sample, so that nothing is delayed; what rings on after the clip is cut off.
    The length stays [L] and the energy that of the samples, less where the peak would exceed 1.
    """
    samples = _checked(samples)
    response = np.asarray(response, np.float64)
    if response.ndim != 1 or not len(response) or not np.isfinite(response).all() or not response.any():
        raise ValueError("the impulse response must be finite samples [M], not all of them 0; give another recording")
    response = response[int(np.argmax(np.abs(response))) :]
    response = response / abs(response[0])
    heard = convolve(samples.astype(np.float64), response)
    energy = float(np.sum(heard**2))
    if energy == 0.0:
        return samples.copy()
    return _limited(heard * np.sqrt(np.sum(samples.astype(np.float64) ** 2) / energy))


def convolve(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The first L samples of the convolution of [L] with [M], by FFT, block by block (overlap-add)."""
    length, taps = len(samples), len(response)
    size = 1 << max(15, (4 * taps).bit_length())
    block = size - taps + 1
    spectrum = np.fft.rfft(response, size)
    heard = np.zeros(length + size)
    for begin in range(0, length, block):
        heard[begin : begin + size] += np.fft.irfft(np.fft.rfft(samples[begin : begin + block], size) * spectrum, size)
    return heard[:length]


def add_silence(samples: np.ndarray, rate: int, before_s: float = 0.0, after_s: float = 0.0) -> np.ndarray:
    """Samples with zeros before and after them, each rounded to whole samples."""
    before = round(_number("before_s", before_s, SILENCE_S, " s") * _rate(rate))
    after = round(_number("after_s", after_s, SILENCE_S, " s") * rate)
    return np.pad(_checked(samples), (before, after))


def looped(samples: np.ndarray, length: int, start: int = 0) -> np.ndarray:
    """`length` samples of a clip from its sample `start` on, beginning again where it ends."""
    if not len(samples):
        raise ValueError("a clip without samples cannot be looped; leave it out")
    start %= len(samples)
    if start + length <= len(samples):
        return samples[start : start + length]
    return np.resize(np.concatenate([samples[start:], samples[:start]]), length)


def _mix(samples: np.ndarray, added: np.ndarray, ratio_db: float, name: str, start: int = 0) -> np.ndarray:
    """Lay `added` over the samples from `start` on, `ratio_db` below their mean power."""
    ratio_db = _number("the ratio", ratio_db, SNR_DB, " dB")
    level, added_level = rms(samples), rms(added)
    for what, found in (("the clip", level), (name, added_level)):
        if found < SILENT_RMS:
            raise ValueError(f"{what} is silent (below -120 dB), so no level is {ratio_db:g} dB from it; leave it out")
    mixed = samples.astype(np.float64)
    mixed[start : start + len(added)] += added * (level / added_level * 10.0 ** (-ratio_db / 20))
    return _limited(mixed)


def rms(samples: np.ndarray) -> float:
    """Root of the mean power, in units of full scale."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _limited(samples: np.ndarray) -> np.ndarray:
    """Made quieter as a whole, where the peak exceeds 1."""
    peak = np.abs(samples).max()
    return (samples / peak if peak > 1.0 else samples).astype(np.float32)


def _at_peak(samples: np.ndarray) -> np.ndarray:
    peak = np.abs(samples).max(initial=0.0)
    return (samples / (peak or 1.0)).astype(np.float32)


def _checked(samples: np.ndarray, name: str = "the clip") -> np.ndarray:
    """Samples as float32, or ValueError where they are not finite samples [L] in [-1, 1]."""
    found = np.asarray(samples)
    if found.ndim != 1 or not len(found) or found.dtype.kind != "f":
        shape = list(found.shape)
        raise ValueError(f"{name} must be floats [L], and is {found.dtype} {shape}; load it with audio.load")
    if not np.abs(found).max() <= 1.0:  # which NaN is not, either
        raise ValueError(f"{name} has samples beyond [-1, 1] or not finite; load it with audio.load")
    return found.astype(np.float32, copy=False)


def _number(name: str, value: Any, bounds: Range, unit: str) -> float:
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, and must be a number from {low:g} to {high:g}{unit}")
    return float(value)


def _rate(rate: int) -> int:
    return int(_number("the rate", rate, RATE_HZ, " Hz"))


# ---- stripes of the spectrogram --------------------------------------------------------------------------------------


def spec_augment(
    samples: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    frequency_masks: int = 2,
    frequency_width: int = 27,
    time_masks: int = 2,
    time_width: int = 100,
    time_fraction: float = 0.2,
) -> np.ndarray:
    """Samples without stripes of their spectrogram: SpecAugment (Park et al. 2019, arXiv:1904.08779) for any encoder.

    A stripe of frequencies is 0 to `frequency_width` of the MEL_BANDS bands, taken out of the whole clip; a stripe of
    time is 0 to min(`time_width` frames of 10 ms, `time_fraction` of the clip), silent. Widths and places are drawn
    evenly, and stripes may lie on each other. Encoders find the floor of their spectrogram there, not its mean.
    """
    found = _checked(samples).copy()
    edges_hz = mel_edges_hz(_rate(rate))
    bands = _stripes(rng, frequency_masks, frequency_width, MEL_BANDS)
    if any(begin < end for begin, end in bands):
        spectrum = np.fft.rfft(found)
        bins_hz = np.fft.rfftfreq(len(found), 1 / rate)
        for begin, end in bands:
            first, last = np.searchsorted(bins_hz, edges_hz[[begin, end]])
            spectrum[first : last + (end == MEL_BANDS)] = 0.0
        found = _limited(np.fft.irfft(spectrum, len(found)))
    widest_s = min(time_width * FRAME_S, time_fraction * len(found) / rate)
    for begin, end in _stripes(rng, time_masks, round(widest_s * rate), len(found)):
        found[begin:end] = 0.0
    return found


def mel_edges_hz(rate: int) -> np.ndarray:
    """The edges [MEL_BANDS + 1] of bands that are equally wide on the mel scale, from 0 to half of the rate."""
    mels = np.linspace(0.0, 2595.0 * np.log10(1.0 + rate / 2 / 700.0), MEL_BANDS + 1)
    return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))


def _stripes(rng: np.random.Generator, count: int, widest: int, size: int) -> list[tuple[int, int]]:
    """Begin and end of stripes on an axis of this size."""
    if count < 0 or widest < 0:
        raise ValueError(f"{count} masks up to {widest} wide cannot be; both numbers must be 0 or more")
    widths = [int(rng.integers(0, min(widest, size) + 1)) for _ in range(count)]
    begins = [int(rng.integers(0, size - width + 1)) for width in widths]
    return [(begin, begin + width) for begin, width in zip(begins, widths, strict=True)]


# ---- settings --------------------------------------------------------------------------------------------------------


def _range(bounds: Range, unit: str) -> BeforeValidator:
    """A check for [lowest, highest] within bounds."""
    low, high = bounds

    def check(value: Any) -> Range:
        numbers = list(value) if isinstance(value, list | tuple) else []
        plain = all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
        if len(numbers) != 2 or not plain or not low <= numbers[0] <= numbers[1] <= high:
            raise ValueError(f"must be [lowest, highest], both from {low:g} to {high:g}{unit}, and is {value!r}")
        return float(numbers[0]), float(numbers[1])

    return BeforeValidator(check)


def _not_empty(kinds: tuple[str, ...]) -> tuple[str, ...]:
    if not kinds:
        raise ValueError("must name at least one kind; to turn it off, set its probability to 0")
    return kinds


SnrRange = Annotated[Range, _range(SNR_DB, " dB")]
GainRange = Annotated[Range, _range(GAIN_DB, " dB")]
SpeedRange = Annotated[Range, _range(SPEED, "")]
DecayRange = Annotated[Range, _range(RT60_S, " s")]
SilenceRange = Annotated[Range, _range(SILENCE_S, " s")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
NotEmpty = AfterValidator(_not_empty)


class _Closed(BaseModel):
    """Frozen; an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        unknown = [key for key in values if key not in cls.model_fields] if isinstance(values, Mapping) else []
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), cls.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
            raise ValueError(f"{unknown[0]!r} is not a setting here; {hint}")
        return values


class _Rule(_Closed):
    probability: Share = 0.0
    """How often a clip is changed in this way, 0 (never) to 1 (always). Numbers are drawn evenly from their ranges."""


class NoiseSettings(_Rule):
    """Noise under the whole clip."""

    snr_db: SnrRange = (5.0, 30.0)
    """Mean power of the clip above that of the noise, decibels."""
    kinds: Annotated[tuple[Literal["white", "pink", "recorded"], ...], NotEmpty] = ("white", "pink")
    """One is drawn; recorded: from the noise clips that are given."""


class GainSettings(_Rule):
    """Louder or quieter."""

    gain_db: GainRange = (-6.0, 6.0)
    """Decibels."""
    overload: Overload = "limit"
    """What becomes of peaks beyond 1: less gain (limit), or flat peaks (clip)."""


class SpeedSettings(_Rule):
    """Faster or slower, with the pitch."""

    factor: SpeedRange = (0.9, 1.1)
    """Above 1 is faster and shorter."""


class ReverberationSettings(_Rule):
    """A room around the clip."""

    kinds: Annotated[tuple[Literal["synthetic", "recorded"], ...], NotEmpty] = ("synthetic",)
    """One is drawn; recorded: from the impulse responses that are given."""
    rt60_s: DecayRange = (0.1, 0.8)
    """Seconds in which a synthetic room decays by 60 dB."""
    direct_db: SnrRange = (0.0, 10.0)
    """Energy of the direct sound above that of the rest of a synthetic room, decibels."""


class SilenceSettings(_Rule):
    """Zeros around the clip."""

    before_s: SilenceRange = (0.0, 0.5)
    """Seconds."""
    after_s: SilenceRange = (0.0, 0.5)
    """Seconds."""


class OverlapSettings(_Rule):
    """A second clip at the same time."""

    ratio_db: SnrRange = (5.0, 20.0)
    """Mean power of the clip above that of the other, decibels."""


class SpecAugmentSettings(_Rule):
    """Stripes of the spectrogram that are not heard (Park et al. 2019)."""

    frequency_masks: Count = 2
    """Number of stripes of frequencies."""
    frequency_width: Count = 27
    """Width of such a stripe at most, in bands of which 80 make the mel scale."""
    time_masks: Count = 2
    """Number of stripes of time."""
    time_width: Count = 100
    """Length of such a stripe at most, in frames of 10 ms."""
    time_fraction: Share = 0.2
    """Share of the clip that it takes at most."""


class AugmentSettings(_Closed):
    """What is done to a clip, in this order: a room follows the voices, noise and level follow the room."""

    speed: SpeedSettings = SpeedSettings()
    """First, the clip is faster or slower."""
    overlap: OverlapSettings = OverlapSettings()
    """Then a second clip is heard with it, out of the folder `others`."""
    reverberation: ReverberationSettings = ReverberationSettings()
    """Then both are in a room."""
    noise: NoiseSettings = NoiseSettings()
    """Then comes noise."""
    gain: GainSettings = GainSettings()
    """Then the level."""
    silence: SilenceSettings = SilenceSettings()
    """Then silence before and after."""
    spec_augment: SpecAugmentSettings = SpecAugmentSettings()
    """At last, stripes of the spectrogram are taken out."""
    noises: str | None = None
    """Folder of noises, for `noise: {kinds: [recorded]}`; who calls `augment` reads them."""
    responses: str | None = None
    """Folder of impulse responses, for `reverberation: {kinds: [recorded]}`."""
    others: str | None = None
    """Folder of recordings that are heard at the same time, for `overlap`."""


# ---- drawn by seed ---------------------------------------------------------------------------------------------------


class Material(NamedTuple):
    """Clips to add, each float32 [M] at the rate of the samples; a sequence may load one when it is asked for it."""

    noises: Sequence[np.ndarray] = ()
    responses: Sequence[np.ndarray] = ()
    others: Sequence[np.ndarray] = ()


def augment(
    samples: np.ndarray,
    rate: int,
    settings: AugmentSettings,
    seed_parts: Sequence[str | int],
    noises: Sequence[np.ndarray] = (),
    responses: Sequence[np.ndarray] = (),
    others: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, list[str]]:
    """Change a clip [L] at `rate` Hz as the settings and the seed parts say; also the names of what was applied.

    `seed_parts` are (seed, epoch, id of row or clip): nothing else decides, but for the clips given, in their order.
    What needs a level leaves a silent clip, or a silent cut of a noise or another clip, alone and is not named. Where
    nothing is applied, the samples themselves are returned.
    ValueError if the settings ask for recorded clips and none are given.
    """
    material = Material(noises, responses, others)
    check_material(settings, material)
    applied = []
    samples = _checked(samples)
    for name, step in STEPS.items():
        rule, rng = getattr(settings, name), generator(seed_parts, name)
        changed = step(samples, rate, rule, rng, material) if rng.random() < rule.probability else None
        if changed is not None:
            samples = changed
            applied.append(name)
    return samples, applied


def check_material(settings: AugmentSettings, material: Material) -> None:
    """ValueError names the clips that the settings ask for and nobody gave."""
    wanted = {
        "noise": (settings.noise.probability and "recorded" in settings.noise.kinds, material.noises, "noise clips"),
        "reverberation": (
            settings.reverberation.probability and "recorded" in settings.reverberation.kinds,
            material.responses,
            "impulse responses",
        ),
        "overlap": (settings.overlap.probability, material.others, "other clips"),
    }
    for name, (needed, given, what) in wanted.items():
        if needed and not len(given):
            raise ValueError(f"{name} needs {what}, and none are given; give some, or set its probability to 0")


def most_samples(num_samples: int, rate: int, settings: AugmentSettings) -> int:
    """How long a clip of this many samples may become: for lengths that are measured before anything is drawn."""
    if settings.speed.probability:
        num_samples = max(length_at_speed(num_samples, settings.speed.factor[0]), num_samples)
    if settings.silence.probability:
        num_samples += sum(round(most_s * rate) for _, most_s in (settings.silence.before_s, settings.silence.after_s))
    return num_samples


def generator(seed_parts: Sequence[str | int], name: str = "") -> np.random.Generator:
    """Random numbers that depend on these parts and the name alone; 1 and "1" are not the same."""
    told = json.dumps([part if isinstance(part, str) else int(part) for part in seed_parts] + [name])
    digest = hashlib.blake2b(told.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def _one_of(clips: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return clips[int(rng.integers(len(clips)))]


def _noise(
    samples: np.ndarray, rate: int, rule: NoiseSettings, rng: np.random.Generator, material: Material
) -> np.ndarray | None:
    snr_db, kind = rng.uniform(*rule.snr_db), rule.kinds[int(rng.integers(len(rule.kinds)))]
    if kind == "recorded":
        clip = _one_of(material.noises, rng)
        start = int(rng.integers(max(len(clip), 1)))
        noise = _checked(looped(clip, len(samples), start), "a noise clip")
    else:
        noise = (white_noise if kind == "white" else pink_noise)(len(samples), rng)
    return add_noise(samples, noise, snr_db) if _audible(samples, noise) else None


def _overlap(
    samples: np.ndarray, rate: int, rule: OverlapSettings, rng: np.random.Generator, material: Material
) -> np.ndarray | None:
    """The shorter of both lies somewhere within the longer."""
    other = _one_of(material.others, rng)
    low, high = sorted((0, len(samples) - len(other)))
    start, ratio_db = int(rng.integers(low, high + 1)), rng.uniform(*rule.ratio_db)
    heard = _checked(other[max(-start, 0) :][: len(samples)], "another clip")
    return overlap(samples, heard, ratio_db, max(start, 0)) if _audible(samples, heard) else None


def _reverberation(
    samples: np.ndarray, rate: int, rule: ReverberationSettings, rng: np.random.Generator, material: Material
) -> np.ndarray:
    if rule.kinds[int(rng.integers(len(rule.kinds)))] == "recorded":
        return reverberate(samples, _one_of(material.responses, rng))
    rt60_s, direct_db = rng.uniform(*rule.rt60_s), rng.uniform(*rule.direct_db)
    return reverberate(samples, impulse_response(rt60_s, rate, rng, direct_db))


def _audible(*clips: np.ndarray) -> bool:
    return all(rms(clip) >= SILENT_RMS for clip in clips)


Step = Callable[[np.ndarray, int, Any, np.random.Generator, Material], np.ndarray | None]
STEPS: dict[str, Step] = {
    "speed": lambda samples, rate, rule, rng, _: speed(samples, rng.uniform(*rule.factor)),
    "overlap": _overlap,
    "reverberation": _reverberation,
    "noise": _noise,
    "gain": lambda samples, rate, rule, rng, _: gain(samples, rng.uniform(*rule.gain_db), rule.overload),
    "silence": lambda samples, rate, rule, rng, _: add_silence(
        samples, rate, rng.uniform(*rule.before_s), rng.uniform(*rule.after_s)
    ),
    "spec_augment": lambda samples, rate, rule, rng, _: spec_augment(
        samples, rate, rng, **rule.model_dump(exclude={"probability"})
    ),
}
"""Name -> what it does; None where it does not apply. The order is that of AugmentSettings."""
