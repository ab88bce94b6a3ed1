"""Augmentation does what its numbers say, never leaves [-1, 1], and depends on its seed alone."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from audiollm.data import augment as module
from audiollm.data.augment import (
    AugmentSettings,
    add_noise,
    add_silence,
    augment,
    convolve,
    gain,
    impulse_response,
    looped,
    mel_edges_hz,
    most_samples,
    overlap,
    pink_noise,
    reverberate,
    rms,
    spec_augment,
    speed,
    white_noise,
)

RATE = 16_000
ALWAYS = {
    "speed": {"factor": [0.8, 1.25]},
    "overlap": {"ratio_db": [0, 10]},
    "reverberation": {"kinds": ["synthetic", "recorded"]},
    "noise": {"kinds": ["white", "pink", "recorded"], "snr_db": [-10, 30]},
    "gain": {"gain_db": [-20, 40], "overload": "clip"},
    "silence": {"before_s": [0, 0.2], "after_s": [0.1, 0.3]},
    "spec_augment": {"time_width": 20},
}


def rng(seed=0):
    return np.random.default_rng(seed)


def tone(frequency=440.0, seconds=1.0, peak=0.3):
    """Read-only, as a cache of decoded clips would give it: writing to it is an error."""
    samples = (peak * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)
    samples.setflags(write=False)
    return samples


def settings(probability=1.0, **rules):
    return AugmentSettings.model_validate({name: {"probability": probability, **rule} for name, rule in rules.items()})


def material():
    response = impulse_response(0.2, RATE, rng(5))
    return {"noises": [tone(90, 0.4), tone(3000, 3)], "responses": [response], "others": [tone(700, 0.5), tone(800, 2)]}


def ratio_db(mixed, clip, added):
    """Mean power of the clip's share in the mixture over that of what was added, found by least squares."""
    shares, *_ = np.linalg.lstsq(
        np.stack([clip, added], axis=1).astype(np.float64), mixed.astype(np.float64), rcond=None
    )
    return 20 * math.log10(abs(shares[0]) * rms(clip) / (abs(shares[1]) * rms(added)))


def is_sound(samples):
    return samples.dtype == np.float32 and samples.ndim == 1 and bool(np.abs(samples).max() <= 1.0)


@pytest.mark.parametrize("snr_db", [-20.0, 0.0, 13.7, 60.0])
@pytest.mark.parametrize("peak", [0.001, 0.3, 1.0])
def test_the_snr_is_the_one_asked_for_also_where_the_mixture_is_made_quieter(snr_db, peak):
    clip = tone(peak=peak)
    for noise in (white_noise(len(clip), rng()), pink_noise(len(clip), rng()), tone(97, 3.0)):
        mixed = add_noise(clip, noise, snr_db, start=11)
        assert is_sound(mixed) and len(mixed) == len(clip)
        assert ratio_db(mixed, clip, looped(noise, len(clip), 11)) == pytest.approx(snr_db, abs=0.1)


def test_a_short_noise_begins_again_and_a_long_one_is_cut():
    noise = np.arange(1, 6, dtype=np.float32) / 10
    assert looped(noise, 12, 3).tolist() == noise[[3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]].tolist()
    assert looped(noise, 2, 1).tolist() == noise[1:3].tolist()
    with pytest.raises(ValueError, match="without samples"):
        looped(noise[:0], 2)


@pytest.mark.parametrize(("make", "octave_db"), [(white_noise, 0.0), (pink_noise, -3.0)])
def test_noise_falls_by_its_decibels_an_octave(make, octave_db):
    power = np.abs(np.fft.rfft(make(1 << 17, rng()))) ** 2
    bands = [10 * math.log10(power[1 << k : 2 << k].mean()) for k in range(9, 16)]
    # 512 bins and more a band: the mean power of one strays by 1 / sqrt(512), 0.2 dB
    assert np.diff(bands).mean() == pytest.approx(octave_db, abs=0.1)


def test_long_pink_noise_repeats_without_a_click(monkeypatch):
    monkeypatch.setattr(module, "PINK_PERIOD", 1 << 12)
    noise = pink_noise(10_000, rng())
    assert np.array_equal(noise[: 1 << 12], noise[1 << 12 : 2 << 12])
    steps = np.abs(np.diff(noise))
    assert steps[(1 << 12) - 1] <= steps[: (1 << 12) - 1].max()


@pytest.mark.parametrize("gain_db", [-120.0, -6.0, 0.0, 6.0])
def test_gain_is_in_decibels(gain_db):
    louder = gain(tone(), gain_db)
    assert 20 * math.log10(rms(louder) / rms(tone())) == pytest.approx(gain_db, abs=1e-3)


def test_too_much_gain_is_limited_without_another_shape_or_clipped():
    limited, clipped = gain(tone(), 40.0), gain(tone(), 40.0, "clip")
    assert np.abs(limited).max() == 1.0 and np.allclose(limited, tone() / tone().max(), atol=1e-6)
    assert np.array_equal(clipped, np.clip(tone() * 100, -1, 1).astype(np.float32))
    with pytest.raises(ValueError, match="known: limit, clip"):
        gain(tone(), 1.0, "wrap")


@pytest.mark.parametrize("factor", [0.25, 0.8, 0.9137, 1.1, 2.0, 4.0])
@pytest.mark.parametrize("length", [1, 2, 7, 16_000, 16_001])
def test_speed_divides_the_length(factor, length):
    played = speed(np.full(length, 0.1, np.float32), factor)
    assert len(played) == max(1, math.floor(length / factor + 0.5)) and is_sound(played)


@pytest.mark.parametrize("factor", [0.8, 0.9137, 1.1, 1.5])
def test_speed_multiplies_the_frequency(factor):
    played = speed(tone(1000, 4.0), factor)
    spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played))))
    step_hz = RATE / len(played)
    assert np.argmax(spectrum) * step_hz == pytest.approx(1000 * factor, abs=step_hz)
    assert rms(played) == pytest.approx(rms(tone(1000, 4.0)), rel=0.01)


def test_speed_one_changes_nothing_and_loud_clips_stay_within_bounds():
    assert np.array_equal(speed(tone(), 1.0), tone())
    square = np.sign(tone(peak=1.0)).astype(np.float32)
    assert is_sound(speed(square, 1.1))


@pytest.mark.parametrize("rt60_s", [0.15, 0.4, 1.0])
@pytest.mark.parametrize("direct_db", [-10.0, 0.0, 8.0])
def test_the_room_decays_by_60_db_in_the_time_asked_for(rt60_s, direct_db):
    click = np.zeros(2 * RATE, np.float32)
    click[0] = 0.5
    heard = reverberate(click, impulse_response(rt60_s, RATE, rng(3), direct_db))
    left = np.cumsum((heard.astype(np.float64) ** 2)[::-1])[::-1]  # Schroeder: the energy that is still to come
    curve_db = 10 * np.log10(np.maximum(left / left[1], 1e-20))[1:]
    first, last = np.argmax(curve_db < -5), np.argmax(curve_db < -25)
    slope = np.polyfit(np.arange(first, last) / RATE, curve_db[first:last], 1)[0]
    assert -60 / slope == pytest.approx(rt60_s, rel=0.15)
    tail_db = 10 * math.log10(heard[0].astype(np.float64) ** 2 / left[1])
    assert tail_db == pytest.approx(direct_db, abs=0.1)


def test_a_room_keeps_length_and_energy_and_delays_nothing():
    clip = tone(peak=0.2)
    late = np.concatenate([np.full(500, 0.01), [3.0], np.full(200, 0.01)])  # the direct sound comes after 500 samples
    heard = reverberate(clip, late)
    assert len(heard) == len(clip) and rms(heard) == pytest.approx(rms(clip), rel=1e-5)
    click = np.zeros(3000, np.float32)
    click[1000] = 0.4
    assert np.argmax(np.abs(reverberate(click, late))) == 1000
    assert np.array_equal(reverberate(np.zeros(50, np.float32), late), np.zeros(50))


@pytest.mark.parametrize(("length", "taps"), [(10, 1), (5, 40), (100_000, 3_001)])
def test_convolution_block_by_block_is_that_of_numpy(length, taps):
    one, other = rng(1).standard_normal(length), rng(2).standard_normal(taps)
    assert np.allclose(convolve(one, other), np.convolve(one, other)[:length], atol=1e-9)


def test_silence_is_added_before_and_after_and_nowhere_else():
    longer = add_silence(tone(), RATE, before_s=0.25, after_s=0.5)
    assert len(longer) == 28_000 and np.array_equal(longer[4000:20_000], tone())
    assert not longer[:4000].any() and not longer[20_000:].any()


@pytest.mark.parametrize(("start", "span"), [(0, (0, 8000)), (12_000, (12_000, 16_000)), (-3000, (0, 5000))])
def test_another_clip_lies_where_it_should_at_its_ratio(start, span):
    clip, other = tone(peak=0.9), tone(811, 0.5, peak=0.5)
    mixed = overlap(clip, other, 6.0, start)
    assert is_sound(mixed) and len(mixed) == len(clip)
    heard = other[max(-start, 0) :][: span[1] - span[0]]
    placed = np.zeros_like(clip)
    placed[span[0] : span[1]] = heard
    shares, *_ = np.linalg.lstsq(np.stack([clip, placed], 1).astype(np.float64), mixed.astype(np.float64), rcond=None)
    assert np.allclose(mixed, shares[0] * clip + shares[1] * placed, atol=1e-6)
    assert 20 * math.log10(shares[0] * rms(clip) / (shares[1] * rms(heard))) == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize("start", [16_000, -8000])
def test_another_clip_that_would_not_be_heard_is_refused(start):
    with pytest.raises(ValueError, match="leaves nothing"):
        overlap(tone(), tone(seconds=0.5), 6.0, start)


SILENCE = np.zeros(100, np.float32)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: add_noise(SILENCE, tone(), 10.0), "the clip is silent"),
        (lambda: add_noise(tone(), SILENCE, 10.0), "noise is silent"),
        (lambda: add_noise(tone(), tone(), float("nan")), "must be a number"),
        (lambda: add_noise(tone(), tone()[:0], 10.0), "noise must be floats"),
        (lambda: gain(np.array([0.1, np.nan], np.float32), 1.0), "not finite"),
        (lambda: gain(np.array([0.1, 1.5], np.float32), 1.0), "beyond"),
        (lambda: gain(np.array([1, 0], np.int16), 1.0), "must be floats"),
        (lambda: gain(tone()[None], 1.0), "must be floats"),
        (lambda: speed(tone(), 0.0), "from 0.25 to 4"),
        (lambda: impulse_response(-1.0, RATE, rng()), "rt60_s is -1.0"),
        (lambda: impulse_response(1.0, 0, rng()), "the rate is 0"),
        (lambda: reverberate(tone(), np.zeros(5)), "not all of them 0"),
        (lambda: reverberate(tone(), np.array([1.0, np.inf])), "must be finite"),
        (lambda: add_silence(tone(), RATE, before_s=-0.1), "before_s is -0.1"),
        (lambda: spec_augment(tone(), RATE, rng(), time_masks=-1), "0 or more"),
        (lambda: spec_augment(np.ones((3, 3)), RATE, rng()), "must be floats"),
        (lambda: spec_augment(np.full(3, np.nan), RATE, rng()), "not finite"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(wrong, told):
    with pytest.raises(ValueError, match=told) as error:
        wrong()
    assert "\n" not in str(error.value)


def levels_db(samples, rate=RATE):
    """The level [T, F] of frames of 32 ms every 16 ms, and the frequencies in Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::256] * np.hanning(512)
    return 20 * np.log10(np.abs(np.fft.rfft(frames)) + 1e-9), np.fft.rfftfreq(512, 1 / rate)


@pytest.mark.parametrize("seed", range(12))
def test_spec_augment_takes_out_bands_of_all_time_and_leaves_the_other_frequencies_as_they_were(seed):
    clip = 0.1 * white_noise(2 * RATE, rng(99))
    heard = spec_augment(clip, RATE, rng(seed), frequency_masks=2, frequency_width=20, time_masks=0)
    before, after = np.fft.rfft(clip), np.fft.rfft(heard)
    gone = np.abs(after) < 1e-3 * np.abs(before)
    assert np.allclose(after[~gone], before[~gone], atol=1e-3 * np.abs(before).max())
    bands = np.searchsorted(mel_edges_hz(RATE), np.fft.rfftfreq(len(clip), 1 / RATE), "right") - 1
    missing = sorted(set(bands[gone]))
    assert len(missing) <= 2 * 20 and all(gone[bands == band].all() for band in missing[1:-1])
    if missing:
        level, bins_hz = levels_db(heard)
        inner = mel_edges_hz(RATE)[[missing[0], missing[0] + 1]]
        within = (bins_hz > inner[0] + 65) & (bins_hz < inner[1] - 65)  # the window's own width away from the edge
        assert not within.any() or level[:, within].mean() < level.mean() - 20


def test_spec_augment_silences_stripes_of_time_and_leaves_the_rest_bit_for_bit():
    clip = 0.1 * white_noise(2 * RATE, rng(99))
    longest = 0
    for seed in range(60):
        heard = spec_augment(clip, RATE, rng(seed), frequency_masks=0, time_masks=1, time_width=30, time_fraction=0.5)
        silent = heard == 0.0
        assert np.array_equal(heard[~silent], clip[~silent])
        edges = np.flatnonzero(np.diff(np.pad(silent.astype(int), 1)))
        assert len(edges) <= 2  # one stripe
        longest = max(longest, int(silent.sum()))
    assert 0.25 * RATE < longest <= 0.3 * RATE
    short = spec_augment(clip, RATE, rng(1), frequency_masks=0, time_masks=1, time_width=1000, time_fraction=0.01)
    assert (short == 0.0).sum() <= 0.02 * RATE


def test_spec_augment_reaches_its_widths_and_every_band():
    masks = np.array([spec_augment_bands(seed, 5) for seed in range(600)])
    assert set(masks.sum(axis=1)) == set(range(6)) and masks.any(axis=0).all()


def spec_augment_bands(seed, width):
    """Which bands a stripe takes out of white noise."""
    clip = 0.1 * white_noise(8000, rng(3))
    heard = spec_augment(clip, RATE, rng(seed), frequency_masks=1, frequency_width=width, time_masks=0)
    gone = np.abs(np.fft.rfft(heard)) < 1e-3 * np.abs(np.fft.rfft(clip))
    bands = np.searchsorted(mel_edges_hz(RATE), np.fft.rfftfreq(len(clip), 1 / RATE), "right") - 1
    return np.array([gone[bands == band].all() for band in range(80)])


def test_spec_augment_takes_clips_shorter_than_its_stripes():
    for length in (1, 2, 100):
        heard = spec_augment(np.full(length, 0.5, np.float32), RATE, rng(), time_fraction=1.0)
        assert is_sound(heard) and len(heard) == length


def test_the_same_seed_parts_give_the_same_bits_and_others_others():
    rules = settings(**ALWAYS)
    once, names = augment(tone(), RATE, rules, (1, 2, "a"), **material())
    again, same = augment(tone(), RATE, rules, (1, 2, "a"), **material())
    assert once.tobytes() == again.tobytes() and names == same == list(module.STEPS)
    others = [(2, 2, "a"), (1, 3, "a"), (1, 2, "b"), (1, 2, "a", ""), (12, "a")]
    results = {augment(tone(), RATE, rules, parts, **material())[0].tobytes() for parts in others}
    assert len(results | {once.tobytes()}) == 6


def test_numpy_numbers_are_the_same_seed_parts_and_texts_are_not():
    drawn = [module.generator(parts).random() for parts in ((1, 2), (np.int64(1), 2), ("1", 2), ("1", "2"))]
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


def test_the_bits_of_a_seed_are_these():
    # resumed runs rely on them: another number here changes what is drawn in the middle of somebody's run
    assert module.generator((0, 1, "clip"), "noise").random() == 0.4698445331237413


def test_one_augmentation_more_does_not_change_what_another_draws():
    _, alone = augment(tone(), RATE, settings(gain={}), (0,))
    quiet = settings(gain={"gain_db": [-20, -1]})
    both = settings(gain={"gain_db": [-20, -1]}, silence={"before_s": [0, 0], "after_s": [0.1, 0.1]})
    assert alone == ["gain"]
    assert np.array_equal(augment(tone(), RATE, quiet, (0,))[0], augment(tone(), RATE, both, (0,))[0][: len(tone())])


@pytest.mark.parametrize("seed", range(40))
def test_nothing_leaves_the_bounds_and_no_clip_gets_longer_than_said(seed):
    clips = [tone(peak=1.0), np.sign(tone(peak=1.0)), SILENCE, np.ones(1, np.float32), np.full(3, 1e-30, np.float32)]
    rules = settings(0.7, **ALWAYS)
    for clip in clips:
        found, names = augment(clip, RATE, rules, (seed,), **material())
        assert is_sound(found) and len(found) <= most_samples(len(clip), RATE, rules)
        assert rms(clip) > 1e-6 or not {"noise", "overlap"} & set(names)


def test_the_longest_a_clip_may_become_is_reached():
    rules = settings(speed={"factor": [0.5, 0.5]}, silence={"before_s": [0.1, 0.1], "after_s": [0.2, 0.2]})
    assert len(augment(tone(), RATE, rules, (0,))[0]) == most_samples(RATE, RATE, rules) == 32_000 + 4_800
    assert most_samples(RATE, RATE, settings(0.5, speed={"factor": [2, 2]})) == RATE
    assert most_samples(RATE, RATE, AugmentSettings()) == RATE


def test_probability_zero_returns_the_clip_itself_and_is_the_default():
    clip = tone()
    for rules in (AugmentSettings(), settings(0.0, **ALWAYS)):
        found, names = augment(clip, RATE, rules, (0, 0, "x"))
        assert found is clip and names == []


def test_probability_is_how_often_it_happens():
    rules = settings(0.3, gain={}, silence={})
    counts = [augment(tone(seconds=0.01), RATE, rules, (0, number))[1] for number in range(2000)]
    for name in ("gain", "silence"):
        assert sum(name in names for names in counts) / 2000 == pytest.approx(0.3, abs=0.04)  # 4 standard deviations
    both = sum(len(names) == 2 for names in counts) / 2000
    assert both == pytest.approx(0.09, abs=0.026)  # one does not follow from the other


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (settings(noise={"kinds": ["recorded"]}), "noise needs noise clips"),
        (settings(reverberation={"kinds": ["recorded"]}), "reverberation needs impulse responses"),
        (settings(overlap={}), "overlap needs other clips"),
    ],
)
def test_clips_that_are_asked_for_must_be_given(rules, told):
    with pytest.raises(ValueError, match=told):
        augment(tone(), RATE, rules, (0,))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"nois": {}}, "'nois' is not a setting here; did you mean 'noise'?"),
        ({"noise": {"snr": [1, 2]}}, "did you mean 'snr_db'"),
        ({"noise": {"snr_db": [20, 5]}}, "must be [lowest, highest], both from -60 to 120 dB, and is [20, 5]"),
        ({"noise": {"snr_db": 5}}, "must be [lowest, highest]"),
        ({"noise": {"snr_db": [float("nan"), 5]}}, "must be [lowest, highest]"),
        ({"noise": {"snr_db": [True, 5]}}, "must be [lowest, highest]"),
        ({"noise": {"kinds": ["brown"]}}, "'white', 'pink' or 'recorded'"),
        ({"noise": {"kinds": []}}, "at least one"),
        ({"speed": {"factor": [0, 1]}}, "from 0.25 to 4"),
        ({"gain": {"probability": 1.5}}, "less than or equal to 1"),
        ({"gain": {"probability": float("nan")}}, ""),
        ({"gain": {"overload": "wrap"}}, "'limit' or 'clip'"),
        ({"reverberation": {"rt60_s": [-1, 1]}}, "from 0.01 to 20 s"),
        ({"silence": {"after_s": [0, 1e9]}}, "from 0 to 600 s"),
        ({"spec_augment": {"time_masks": -1}}, "greater than or equal to 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_sentence(given, told):
    with pytest.raises(ValidationError) as error:
        AugmentSettings.model_validate(given)
    (found,) = error.value.errors()
    assert told in found["msg"] and "\n" not in found["msg"]


def test_settings_come_back_from_json_as_they_were():
    rules = settings(0.5, **ALWAYS)
    assert AugmentSettings.model_validate_json(rules.model_dump_json()) == rules
