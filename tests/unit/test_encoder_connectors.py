"""Encoder and connectors: a clip's result is its own, its length is known beforehand, and it is as loud as text."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import (
    CONNECTOR_BLOCKS,
    ENCODER,
    LLM,
    LLMS,
    MLP,
    QFORMER,
    RATE,
    sections_of,
    tiny,
    tokenizer,
    tone,
    tones,
    unsettle,
)
from transformers import WhisperConfig

from audiollm.data.collate import pad_waveforms
from audiollm.models.connectors import CONNECTORS, build_connector, check_connector
from audiollm.models.encoders import encoder_class
from audiollm.models.encoders.whisper import WhisperAudioEncoder, log_mel
from audiollm.models.lengths import num_audio_tokens
from audiollm.models.parts import build, match_connector_scale, rms

ALL = pytest.mark.parametrize("connector", [CONNECTOR_BLOCKS[name] for name in CONNECTORS], ids=list(CONNECTORS))
ODD = [3 * 160 - 7, 71 * 160, 16_000 + 161]  # samples of an odd number of mel frames, in the first or second window
CLIPS = [*tones(4, seconds=(0.05, 2.6)), tone(500, 0.9) * 1e-4, *(tone(700, length / RATE) for length in ODD)]
"""Shorter than a connector's window up to several windows of the encoder; loud and hardly to be heard."""


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return unsettle(WhisperAudioEncoder(WhisperConfig(**ENCODER))).eval()


def batch_of(clips, padding=0):
    batch = pad_waveforms(clips)
    values = torch.nn.functional.pad(batch["input_values"], (0, padding))
    return values, torch.nn.functional.pad(batch["input_values_mask"], (0, padding))


@torch.no_grad()
def vectors_of(module, values, mask):
    """The vectors of each clip, without padding."""
    vectors, kept = module(values, mask)
    return [one[keep] for one, keep in zip(vectors, kept, strict=True)]


def listen(encoder, connector, values, mask):
    return vectors_of(lambda v, m: connector(*encoder(v, m)), values, mask)


def assert_same(ours, theirs):
    assert [len(one) for one in ours] == [len(one) for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)  # float32, sums in another order


def make_connector(block, seed=0):
    torch.manual_seed(seed)
    made = build_connector(
        check_connector(block), dim_in=16, dim_out=24, frame_rate_hz=50.0, sections=sections_of(block, 16)
    )
    return unsettle(made).eval()


def test_a_batch_of_clips_is_encoded_as_each_alone(encoder):
    together = vectors_of(encoder, *batch_of(CLIPS))
    alone = [vectors_of(encoder, *batch_of([clip]))[0] for clip in CLIPS]
    assert_same(together, alone)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_clips_one_after_another_are_encoded_as_padded_ones_and_so_are_the_gradients(encoder, attention):
    padded = WhisperAudioEncoder(deepcopy(encoder.config)).eval()
    padded.load_state_dict(encoder.state_dict())
    padded.set_attn_implementation(attention)
    values, mask = batch_of(CLIPS)
    heard = []
    for one in (encoder, padded):
        frames, kept = one(values, mask)
        one.zero_grad()
        (frames[kept] * torch.arange(frames.shape[-1])).sum().backward()
        heard.append((frames.detach(), {name: p.grad for name, p in one.named_parameters() if p.requires_grad}))
    (ours, our_gradients), (theirs, their_gradients) = heard
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], atol=1e-5 * float(gradient.abs().max()), rtol=0)


def test_no_layer_of_the_encoder_computes_padding(encoder):
    frames = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: frames.append(args[0].shape[:2])) for layer in encoder.layers
    ]
    values, mask = batch_of(CLIPS)
    _, kept = encoder(values, mask)
    for hook in hooks:
        hook.remove()
    assert set(frames) == {(1, int(kept.sum()))}


@ALL
def test_a_batch_of_clips_is_connected_as_each_alone(encoder, connector):
    module = make_connector(connector)
    together = listen(encoder, module, *batch_of(CLIPS))
    alone = [listen(encoder, module, *batch_of([clip]))[0] for clip in CLIPS]
    assert_same(together, alone)


@ALL
@pytest.mark.parametrize("padding", [1, 159, 7_000, 40_000])
def test_more_padding_changes_nothing(encoder, connector, padding):
    module = make_connector(connector)
    plain = listen(encoder, module, *batch_of(CLIPS[:3]))
    assert_same(listen(encoder, module, *batch_of(CLIPS[:3], padding)), plain)


@ALL
def test_what_lies_in_the_padding_changes_nothing(encoder, connector):
    module = make_connector(connector)
    values, mask = batch_of(CLIPS, 500)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    assert_same(listen(encoder, module, torch.where(mask, values, noise), mask), listen(encoder, module, values, mask))


@ALL
def test_a_connector_does_not_read_masked_frames(connector):
    module = make_connector(connector)
    frames, mask = torch.randn(2, 23, 16), torch.arange(23) < torch.tensor([[23], [11]])
    other = torch.where(mask[..., None], frames, torch.randn(2, 23, 16) * 5)
    assert_same(vectors_of(module, other, mask), vectors_of(module, frames, mask))


def test_a_short_last_window_is_read_as_it_is_and_not_filled():
    module = make_connector({**QFORMER, "window_s": 0.06})
    frames = torch.randn(1, 5, 16)  # a window of three frames, and one of two
    (vectors,) = vectors_of(module, frames, torch.ones(1, 5, dtype=torch.bool))
    with torch.no_grad():
        rest = module.input_norm(frames[:, 3:])
        alone = module.output(module.qformer(query_embeds=module.query, encoder_hidden_states=rest).last_hidden_state)
    torch.testing.assert_close(vectors[2:], alone[0], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def heard():
    """Clips of 0.1 to 95 s in windows of 30 s: the encoder's config, and samples and frames of each."""
    small = {**ENCODER, "max_source_positions": 1500, "encoder_layers": 1}
    encoder = WhisperAudioEncoder(WhisperConfig(**small)).eval()
    seconds = [0.1, 1 / 3, 1.0, 7.777, 29.99, 30.0, 30.02, 59.9999, 61.3, 95.0]
    clips = [torch.zeros(1, round(length * RATE)).uniform_(-0.1, 0.1) for length in seconds]
    with torch.no_grad():
        frames = [encoder(values, torch.ones_like(values, dtype=torch.bool)) for values in clips]
    return encoder.config.to_dict(), [(values.shape[1], *one) for values, one in zip(clips, frames, strict=True)]


@ALL
def test_the_number_of_vectors_is_known_without_weights(heard, connector):
    config, clips = heard
    module, block = make_connector(connector), check_connector(connector)
    for samples, frames, mask in clips:
        (vectors,) = vectors_of(module, frames, mask)
        assert len(vectors) == num_audio_tokens(config, block, samples), samples


def test_loudness_of_a_neighbour_does_not_cut_the_range_of_a_quiet_clip():
    quiet, loud = tone(500, 0.5) * 1e-4, tone(900, 0.5)
    values = torch.from_numpy(np.stack([quiet, loud]))
    both = log_mel(values, torch.tensor([8000, 8000]), RATE, 80)
    alone = log_mel(values[:1], torch.tensor([8000]), RATE, 80)
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=0)


def test_a_clip_without_samples_has_no_length():
    with pytest.raises(ValueError, match="a clip has 0 samples"):
        num_audio_tokens(WhisperConfig().to_dict(), check_connector(MLP), 0)


def test_a_window_of_the_qformer_hears_its_own_frames_alone():
    module = make_connector({**QFORMER, "window_s": 0.06})
    frames = torch.randn(1, 8, 16, requires_grad=True)
    vectors, _ = module(frames, torch.ones(1, 8, dtype=torch.bool))
    assert vectors.shape == (1, 3 * 2, 24)
    vectors[0, 2:4].sum().backward()  # the second of three windows of three frames
    heard = frames.grad[0].abs().sum(-1) > 0
    assert heard.tolist() == [False] * 3 + [True] * 3 + [False] * 2


@ALL
def test_audio_vectors_start_as_loud_as_text(connector):
    taps = {"taps": [1, 2]} if connector["name"] == "layer_qformer" else {}
    assert_as_loud_as_text(connector, "qwen3", **taps)


def test_audio_vectors_start_as_loud_as_text_that_is_scaled():
    assert_as_loud_as_text(QFORMER, "gemma3")  # multiplies its embeddings by the root of their width


def assert_as_loud_as_text(connector, llm, **listening):
    torch.manual_seed(0)
    config = {**LLM, **LLMS[llm], "initializer_range": 0.02}
    encoder = {"config": ENCODER, **listening}
    model = build(encoder=encoder, connector=connector, llm={"config": config}, tokenizer=tokenizer()).model
    text = rms(model.get_input_embeddings()(torch.arange(256)))
    for clip in [tone(440, 1.5), np.random.default_rng(0).normal(0, 0.3, RATE).astype(np.float32), tone(3000, 0.2)]:
        values, mask = batch_of([clip])
        heard = rms(model.get_audio_features(values, mask).pooler_output)
        assert 0.5 < heard / text < 2


def test_matching_the_scale_again_follows_the_embeddings():
    model = tiny().model
    match_connector_scale(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(7)
    assert match_connector_scale(model) == pytest.approx(7, rel=1e-4)
    assert match_connector_scale(model) == pytest.approx(1, rel=1e-4)


def test_unknown_names_and_settings_are_told_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown encoder 'wisper'; did you mean 'whisper'"):
        encoder_class("wisper")
    with pytest.raises(ValueError, match=r"unknown connector 'qformer'; did you mean '.*_qformer'"):
        check_connector({"name": "qformer"})
    with pytest.raises(ValidationError, match="did you mean 'num_queries'"):
        check_connector({"name": "window_qformer", "num_querys": 2})
    with pytest.raises(ValidationError, match="multiple of num_heads=12"):
        check_connector({"name": "window_qformer", "hidden_size": 100})
