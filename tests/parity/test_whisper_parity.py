"""Our Whisper encoder and its front end, held against transformers' own."""

import numpy as np
import pytest
import torch
from tiny import ENCODER, RATE, tone
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiollm.models.encoders.whisper import WhisperAudioEncoder, log_mel, window_length

FULL = 30 * RATE
LENGTHS = [1, 159, 160, 161, 199, 200, 201, 319, 320, 321, 399, 400, 401, 480, 8_000, 15_999, 16_000]
"""Samples, around each border of the transform (hop 160, window 400) and of the second convolution (320)."""


def make_pair(**changes):
    """Our encoder and transformers' own with the same weights."""
    torch.manual_seed(0)
    config = WhisperConfig(**ENCODER | changes)
    ours, theirs = WhisperAudioEncoder(config).eval(), WhisperEncoder(config).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def waves(*seconds):
    return [tone(300 + 200 * n, length, seed=n) for n, length in enumerate(seconds)]


def ours_of(samples, bins, window=FULL, hop=160):
    values = torch.from_numpy(np.stack(samples))
    lengths = torch.full((len(samples),), values.shape[1])
    return log_mel(values, lengths, window, bins, hop)


def theirs_of(samples, bins, **options):
    extractor = WhisperFeatureExtractor(feature_size=bins)
    return extractor(samples, sampling_rate=RATE, return_tensors="pt", **options).input_features


@pytest.mark.parametrize("bins", [80, 128])
def test_log_mel_equals_the_feature_extractor_at_the_full_window(bins):
    samples = waves(30.0, 30.0)
    # float32 against numpy's float64, on values between -1 and 2
    torch.testing.assert_close(ours_of(samples, bins), theirs_of(samples, bins), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("seconds", [0.02, 0.5, 1.2345, 29.99])
def test_log_mel_of_a_shorter_clip_equals_the_extractor_that_pads_to_the_window(bins, seconds):
    samples = waves(seconds)
    ours, theirs = ours_of(samples, bins), theirs_of(samples, bins)
    assert ours.shape[-1] == -(-len(samples[0]) // 160)
    torch.testing.assert_close(ours, theirs[..., : ours.shape[-1]], atol=1e-4, rtol=0)


def test_log_mel_equals_the_unpadded_extractor_but_for_its_last_frames():
    samples = waves(2.0)
    ours, theirs = ours_of(samples, 80), theirs_of(samples, 80, padding=False)
    torch.testing.assert_close(ours[..., :-2], theirs[..., : ours.shape[-1] - 2], atol=1e-4, rtol=0)


def test_a_short_full_window_is_reflected_at_its_end_as_the_extractor_does():
    samples = waves(1.0)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    theirs = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
    torch.testing.assert_close(ours_of(samples, 80, window=RATE), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seconds", [0.5, 1.2345, 4.0])
def test_another_hop_length_equals_the_extractor_with_it(seconds):
    samples, window = waves(seconds), 4 * RATE
    extractor = WhisperFeatureExtractor(feature_size=80, hop_length=320, chunk_length=4)
    theirs = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
    ours = ours_of(samples, 80, window, hop=320)
    assert ours.shape[-1] == -(-len(samples[0]) // 320)
    torch.testing.assert_close(ours, theirs[..., : ours.shape[-1]], atol=1e-4, rtol=0)


def test_the_encoder_with_another_hop_length_hears_through_it():
    ours, theirs = make_pair(max_source_positions=25, hop_length=320)
    values = torch.from_numpy(np.stack(waves(1.0)))
    assert WhisperAudioEncoder.frame_rate_hz(ours.config.to_dict()) == 25.0
    with torch.no_grad():
        frames, mask = ours(values, torch.ones_like(values, dtype=torch.bool))
        expected = theirs(ours_of(values.numpy(), 80, RATE, hop=320)).last_hidden_state
    assert mask.all() and frames.shape == (1, 25, 16)
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("hop", [0, 401, 160.0, "160"])
def test_a_hop_length_that_leaves_sound_out_is_refused(hop):
    with pytest.raises(ValueError, match=r"hop_length is .*; it is a number of samples from 1 to 400"):
        WhisperAudioEncoder(WhisperConfig(**ENCODER, hop_length=hop))


@pytest.mark.parametrize("bins", [80, 128])
def test_the_encoder_equals_transformers_at_30_seconds(bins):
    ours, theirs = make_pair(max_source_positions=1500, num_mel_bins=bins)
    samples = waves(30.0)
    values = torch.from_numpy(np.stack(samples))
    with torch.no_grad():
        expected = theirs(theirs_of(samples, bins)).last_hidden_state
        from_same_features = theirs(ours_of(samples, bins)).last_hidden_state
        frames, mask = ours(values, torch.ones_like(values, dtype=torch.bool))
    assert mask.all() and frames.shape == (1, 1500, 16)
    torch.testing.assert_close(frames, from_same_features, atol=1e-5, rtol=0)  # the same kernels in the same order
    torch.testing.assert_close(frames, expected, atol=5e-4, rtol=0)  # and the rounding of two transforms


def test_a_shorter_clip_is_encoded_as_by_transformers_with_a_position_table_of_its_length():
    ours, _ = make_pair(max_source_positions=1500)
    _, theirs = make_pair(max_source_positions=25)
    state = ours.state_dict()
    theirs.load_state_dict(state | {"embed_positions.weight": state["embed_positions.weight"][:25]})
    values = torch.from_numpy(np.stack(waves(0.5)))
    with torch.no_grad():
        frames, _ = ours(values, torch.ones_like(values, dtype=torch.bool))
        expected = theirs(ours_of(values.numpy(), 80)).last_hidden_state
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=0)


def test_audio_beyond_the_window_is_encoded_window_by_window():
    ours, _ = make_pair()
    values = torch.from_numpy(np.stack(waves(2.3)))
    with torch.no_grad():
        frames, mask = ours(values, torch.ones_like(values, dtype=torch.bool))
        parts = [ours(part, torch.ones_like(part, dtype=torch.bool))[0] for part in values.split(RATE, dim=1)]
    torch.testing.assert_close(frames[mask], torch.cat(parts, dim=1)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("hop", "positions"), [(160, 50), (320, 25), (120, 50)])
def test_the_number_of_frames_is_known_without_weights(hop, positions):
    encoder, _ = make_pair(hop_length=hop, max_source_positions=positions)
    config = encoder.config.to_dict()
    window = window_length(positions, hop)
    assert window == 2 * hop * positions
    for length in [*LENGTHS, *(window + extra for extra in LENGTHS), 2 * window + 1, 3 * window - 161]:
        values = torch.randn(1, length, generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            frames, mask = encoder(values, torch.ones_like(values, dtype=torch.bool))
        assert WhisperAudioEncoder.num_frames(config, length) == int(mask.sum()) <= frames.shape[1], length
        assert torch.isfinite(frames).all()
