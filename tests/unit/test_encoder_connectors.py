"""Encoder and connectors: a clip's result is its own, its length is known beforehand, and it is as loud as text."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import ENCODER, MLP, QFORMER, RATE, tiny, tone, tones, unsettle
from transformers import WhisperConfig

from audiollm.data.collate import pad_waveforms
from audiollm.models.connectors import CONNECTORS, build_connector, check_connector
from audiollm.models.encoders import encoder_class
from audiollm.models.encoders.whisper import WhisperAudioEncoder, log_mel
from audiollm.models.lengths import num_audio_tokens
from audiollm.models.parts import match_connector_scale, rms

BOTH = pytest.mark.parametrize("connector", [QFORMER, MLP], ids=lambda block: block["name"])
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
    return unsettle(build_connector(check_connector(block), dim_in=16, dim_out=24, frame_rate_hz=50.0)).eval()


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


@BOTH
def test_a_batch_of_clips_is_connected_as_each_alone(encoder, connector):
    module = make_connector(connector)
    together = listen(encoder, module, *batch_of(CLIPS))
    alone = [listen(encoder, module, *batch_of([clip]))[0] for clip in CLIPS]
    assert_same(together, alone)


@BOTH
@pytest.mark.parametrize("padding", [1, 159, 7_000, 40_000])
def test_more_padding_changes_nothing(encoder, connector, padding):
    module = make_connector(connector)
    plain = listen(encoder, module, *batch_of(CLIPS[:3]))
    assert_same(listen(encoder, module, *batch_of(CLIPS[:3], padding)), plain)


@BOTH
def test_what_lies_in_the_padding_changes_nothing(encoder, connector):
    module = make_connector(connector)
    values, mask = batch_of(CLIPS, 500)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    assert_same(listen(encoder, module, torch.where(mask, values, noise), mask), listen(encoder, module, values, mask))


@BOTH
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


@pytest.mark.parametrize("connector", [{"name": "mlp"}, {"name": "window_qformer"}, {"name": "mlp", "stack": 1}])
def test_the_number_of_vectors_is_known_without_weights(connector):
    small = {**ENCODER, "max_source_positions": 1500, "encoder_layers": 1, "d_model": 8}
    encoder = WhisperAudioEncoder(WhisperConfig(**small)).eval()
    block = check_connector(connector)
    narrow = {"hidden_size": 16} | ({"num_heads": 2, "intermediate_size": 16} if "num_heads" in block else {})
    module = build_connector(block | narrow, dim_in=8, dim_out=8, frame_rate_hz=50.0).eval()
    for seconds in [0.1, 1 / 3, 1.0, 7.777, 29.99, 30.0, 30.02, 59.9999, 61.3, 95.0]:
        values = torch.zeros(1, round(seconds * RATE)).uniform_(-0.1, 0.1)
        (vectors,) = listen(encoder, module, values, torch.ones_like(values, dtype=torch.bool))
        assert len(vectors) == num_audio_tokens(encoder.config.to_dict(), block, values.shape[1]), seconds


def test_the_published_rates_follow():
    whisper = WhisperConfig().to_dict()
    counts = {name: num_audio_tokens(whisper, check_connector({"name": name}), 30 * RATE) for name in CONNECTORS}
    assert counts == {"window_qformer": math.ceil(1500 / 17), "mlp": 300}


def test_loudness_of_a_neighbour_does_not_cut_the_range_of_a_quiet_clip():
    quiet, loud = tone(500, 0.5) * 1e-4, tone(900, 0.5)
    values = torch.from_numpy(np.stack([quiet, loud]))
    both = log_mel(values, torch.tensor([8000, 8000]), RATE, 80)
    alone = log_mel(values[:1], torch.tensor([8000]), RATE, 80)
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=0)


def test_a_clip_without_samples_has_no_length():
    with pytest.raises(ValueError, match="a clip has 0 samples"):
        num_audio_tokens(WhisperConfig().to_dict(), check_connector(MLP), 0)


def test_the_window_qformer_has_the_parameters_of_salmonn():
    module = build_connector(check_connector({"name": "window_qformer"}), dim_in=2048, dim_out=64, frame_rate_hz=50.0)
    count = sum(p.numel() for p in module.qformer.parameters()) + module.query.numel()
    assert count == 22_838_016  # two layers of width 768 that read frames of width 2048, and one query
    rest = sum(p.numel() for p in module.parameters()) - count
    assert rest == 2 * 2048 + (768 + 1) * 64  # the norm of the frames, and the projection
    assert module.window == 17


def test_a_window_of_the_qformer_hears_its_own_frames_alone():
    module = make_connector({**QFORMER, "window_s": 0.06})
    frames = torch.randn(1, 8, 16, requires_grad=True)
    vectors, _ = module(frames, torch.ones(1, 8, dtype=torch.bool))
    assert vectors.shape == (1, 3 * 2, 24)
    vectors[0, 2:4].sum().backward()  # the second of three windows of three frames
    heard = frames.grad[0].abs().sum(-1) > 0
    assert heard.tolist() == [False] * 3 + [True] * 3 + [False] * 2


def test_the_mlp_is_its_formula():
    module = make_connector({**MLP, "stack": 3})
    frames = torch.randn(1, 7, 16)
    ours, mask = module(frames, torch.ones(1, 7, dtype=torch.bool))
    weights = {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}
    padded = np.concatenate([frames[0].double().numpy(), np.zeros((2, 16))])
    erf = np.vectorize(math.erf)
    for position in range(3):
        stacked = np.concatenate([padded[3 * position + k] for k in range(3)])
        inner = weights["input.weight"] @ stacked + weights["input.bias"]
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        expected = weights["output.weight"] @ inner + weights["output.bias"]
        np.testing.assert_allclose(ours[0, position].detach().numpy(), expected, atol=1e-5)
    assert mask.tolist() == [[True] * 3]


@BOTH
@pytest.mark.parametrize("llm", ["qwen3", "gemma3"])  # Gemma multiplies its embeddings by the root of their width
def test_audio_vectors_start_as_loud_as_text(connector, llm):
    model = tiny(llm, connector, initializer_range=0.02).model
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
    with pytest.raises(ValueError, match=r"unknown encoder 'wisper'; known: .*whisper"):
        encoder_class("wisper")
    with pytest.raises(ValueError, match=r"unknown connector 'qformer'; known: mlp, window_qformer"):
        check_connector({"name": "qformer"})
    with pytest.raises(ValidationError, match="did you mean 'num_queries'"):
        check_connector({"name": "window_qformer", "num_querys": 2})
    with pytest.raises(ValidationError, match="multiple of num_heads=12"):
        check_connector({"name": "window_qformer", "hidden_size": 100})
