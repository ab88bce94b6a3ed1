"""AST, CLAP, and the towers of Qwen2-Audio and Audio Flamingo 3, held against transformers' own.

Tiny models with windows of a second, so that a clip of a few seconds has several.
"""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from encoders import IMAGES
from safetensors.torch import load_file, save_file
from tiny import LLM, MLP, RATE, tokenizer, tone, unsettle
from transformers import (
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ASTModel,
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    ClapAudioModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    Qwen2AudioConfig,
    Qwen2AudioEncoder,
    Qwen2AudioForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.audioflamingo3 import AudioFlamingo3Encoder

from audiollm.audio import resample
from audiollm.data.collate import pad_waveforms
from audiollm.models.checkpoint import load_small_checkpoint, save_checkpoint
from audiollm.models.encoders import ENCODERS
from audiollm.models.encoders.filter_bank import kaldi_filter_bank
from audiollm.models.encoders.resampling import upsampled
from audiollm.models.encoders.whisper import log_mel
from audiollm.models.listening import LISTENING
from audiollm.models.parts import build, build_encoder, encoder_on_paper

QWEN, FLAMINGO, AST, CLAP = (
    "qwen2_audio_encoder", "audioflamingo3_encoder", "audio-spectrogram-transformer", "clap_audio_model",
)  # fmt: skip
CONFIGS = {name: ENCODERS[name].config_class(**config) for name, config in IMAGES.items()}
THEIRS = {QWEN: Qwen2AudioEncoder, FLAMINGO: AudioFlamingo3Encoder, AST: ASTModel, CLAP: ClapAudioModel}
ALL = pytest.mark.parametrize("name", CONFIGS)
POOLED = pytest.mark.parametrize("name", [QWEN, FLAMINGO])
CLIPS = [tone(300 + 170 * n, s, seed=n) for n, s in enumerate([0.02, 0.05, 0.31, 0.6501, 1.0, 1.013, 2.4])]
AST_WINDOW = 104 * 160 + 240


def shaken(module):
    """Norms, biases, positions and statistics off their start, behind which a mistake could hide."""
    draw = torch.Generator().manual_seed(1)
    for parameter in unsettle(module).parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.3, generator=draw)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(-40 + 10 * torch.randn(buffer.shape, generator=draw))
        if name.endswith("running_var"):
            buffer.fill_(400.0)
    return module


@cache
def made(name):
    torch.manual_seed(0)
    return shaken(ENCODERS[name](deepcopy(CONFIGS[name]))).eval()


def pair(name, **listening):
    """Our encoder, heard as asked, and transformers' own with the same weights."""
    ours = made(name)
    if listening:
        ours = ENCODERS[name](deepcopy(ours.config)).eval()
        ours.load_state_dict(made(name).state_dict())
        setattr(ours.config, LISTENING, listening)
    theirs = THEIRS[name](deepcopy(CONFIGS[name])).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@torch.no_grad()
def frames_of(encoder, clips, padding=0, content=0.0):
    batch = pad_waveforms(clips)
    values = torch.nn.functional.pad(batch["input_values"], (0, padding))
    mask = torch.nn.functional.pad(batch["input_values_mask"], (0, padding))
    noise = content * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    frames, kept = encoder(torch.where(mask, values, noise), mask)
    return [one[keep] for one, keep in zip(frames, kept, strict=True)]


def close(ours, theirs, atol):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def batch(clip):
    return torch.from_numpy(clip)[None]


# ------------------------------------------------------------------------------------------------- what all have
@ALL
def test_a_batch_of_clips_is_encoded_as_each_alone_whatever_lies_in_the_padding(name):
    encoder = made(name)
    alone = [frames_of(encoder, [clip])[0] for clip in CLIPS]
    for together in (frames_of(encoder, CLIPS), frames_of(encoder, CLIPS, padding=5_000, content=0.5)):
        for one, other in zip(together, alone, strict=True):
            close(one, other, 2e-4)  # float32, sums in another order


@pytest.mark.parametrize("name", [QWEN, FLAMINGO, AST])
def test_clips_under_a_mask_are_encoded_as_clips_one_after_another(name):
    ours, _ = pair(name, normalize=False)
    ours.set_attn_implementation("eager")
    for one, other in zip(frames_of(ours, CLIPS), frames_of(made(name), CLIPS), strict=True):
        close(one, other, 1e-4)


@ALL
@pytest.mark.parametrize("listening", [{}, {"window_s": 0.5, "overlap_s": 0.25}, {"taps": [-1, 1]}], ids=str)
def test_the_number_of_frames_is_known_without_weights(name, listening):
    ours, _ = pair(name, **listening)
    config = ours.config.to_dict()
    edges = [edge + d for edge in (2_800, RATE, AST_WINDOW) for d in (-1, 0, 1)]
    lengths = [1, 321, 640, 959, 961, 1_280, 5_000, *edges, 2 * RATE + 1]
    heard = frames_of(ours, [np.full(length, 0.1, np.float32) for length in lengths])
    if not listening:
        lengths.append(25 * RATE)
        heard += frames_of(ours, [tone(440, 25)])
    for length, frames in zip(lengths, heard, strict=True):
        assert len(frames) == ENCODERS[name].num_frames(config, length) > 0, length
        assert frames.shape[1] == ENCODERS[name].width(config)


@ALL
def test_windows_are_encoded_each_by_itself(name):
    ours, _ = pair(name)
    config = ours.config.to_dict()
    window = ENCODERS[name].windows(config)
    clip = tone(500, 2.5, seed=3)
    (whole,) = frames_of(ours, [clip])
    starts = range(0, len(whole), window.hop)
    parts = [frames_of(ours, [clip[t * window.stride :][: window.samples]])[0] for t in starts]
    assert len(parts) > 1
    close(whole, torch.cat(parts), 2e-4)


@ALL
def test_training_mode_hears_each_clip_by_itself(name):
    encoder = deepcopy(made(name)).train()
    for one, other in zip(frames_of(encoder, CLIPS[2:4]), frames_of(made(name), CLIPS[2:4]), strict=True):
        close(one, other, 2e-4)


# -------------------------------------------------------------------------- Qwen2-Audio's and Audio Flamingo 3's tower
def mel_of(clip, bins=128):
    """What the model's own feature extractor makes, padded to the window, and its mask."""
    extractor = WhisperFeatureExtractor(feature_size=bins, chunk_length=1)
    out = extractor(clip, sampling_rate=RATE, padding="max_length", return_attention_mask=True, return_tensors="pt")
    return out.input_features, out.attention_mask


@torch.no_grad()
def towers_own(theirs, clip):
    """transformers' frames, as its whole models take them from the tower, and their number."""
    features, mask = mel_of(clip)
    _, length = theirs._get_feat_extract_output_lengths(mask.sum(-1))
    if isinstance(theirs, AudioFlamingo3Encoder):
        return theirs(features, input_features_mask=mask), int(length)
    seen = torch.arange(features.shape[-1] // 2) < (mask.sum(-1, keepdim=True) + 1) // 2
    blank = torch.empty(1, features.shape[-1] // 2, 16)
    return theirs(features, attention_mask=create_bidirectional_mask(theirs.config, blank, seen)), int(length)


@POOLED
@pytest.mark.parametrize("samples", [321, 640, 800, 1_000, 5_000, 7_999, 11_233, 15_841, RATE])
def test_the_tower_equals_transformers_on_the_frames_of_a_clip(name, samples):
    ours, theirs = pair(name)
    clip = tone(440, 1.0)[:samples]
    (frames,) = frames_of(ours, [clip])
    expected, length = towers_own(theirs, clip)
    assert len(frames) == max(1, length)
    close(frames[:length], expected.last_hidden_state[0, :length], 1e-4)


@POOLED
def test_a_clip_of_one_whisper_frame_is_that_frame(name):
    ours, _ = pair(name)
    x_MTC, mask_MT = ours.begin(batch(CLIPS[0]), torch.tensor([len(CLIPS[0])]))
    assert mask_MT.sum() == 1
    for layer in ours.layers:
        x_MTC = layer(x_MTC[:, :1], None)
    close(frames_of(ours, CLIPS[:1])[0], ours.layer_norm(x_MTC)[0].detach(), 1e-5)


@POOLED
def test_a_tapped_layer_is_transformers_hidden_state_in_pairs(name):
    ours, theirs = pair(name, taps=[1, 2])
    states = []
    for layer in theirs.layers:
        layer.register_forward_hook(lambda _, __, output: states.append(output))
    _, length = towers_own(theirs, CLIPS[3])
    (frames,) = frames_of(ours, [CLIPS[3]])
    for tapped, raw in zip(frames.split(16, dim=-1), states, strict=True):
        close(tapped, raw[0].unflatten(0, (-1, 2)).mean(1)[:length], 1e-4)


def test_the_frames_after_a_clip_are_the_silence_that_the_extractor_makes():
    clip = CLIPS[2]
    ours = log_mel(batch(clip), torch.tensor([len(clip)]), RATE, 128, silence=5)
    close(ours, mel_of(clip)[0][..., : ours.shape[-1]], 1e-4)
    assert ours.shape[-1] == 31 + 5


# ------------------------------------------------------------------------------------------------------------- AST
@pytest.mark.parametrize(("window", "scale"), [("povey", 2.0**15), ("hann", 1.0)])
@pytest.mark.parametrize("dc", [True, False])
def test_the_filter_bank_is_the_librarys(window, scale, dc):
    clip = tone(700, 0.5) + 0.1
    filters = mel_filter_bank(257, 80, 20, 8_000, RATE, mel_scale="kaldi", triangularize_in_mel_space=True)
    expected = spectrogram(
        clip * scale, window_function(400, window, periodic=False), 400, 160, 512, power=2.0, center=False,
        preemphasis=0.9, mel_filters=filters, log_mel="log", mel_floor=1e-5, remove_dc_offset=dc,
    ).T  # fmt: skip
    ours = kaldi_filter_bank(
        batch(clip), 80, window=window, scale=scale, preemphasis=0.9, remove_dc_offset=dc, floor=1e-5
    )
    close(ours[0], torch.from_numpy(expected), 1e-3)  # logarithms between -12 and 25, of float32 transforms


def ast_features(clip, max_length=104):
    extractor = ASTFeatureExtractor(num_mel_bins=36, max_length=max_length)
    return extractor(clip, sampling_rate=RATE, return_tensors="pt").input_values


@pytest.mark.parametrize("samples", [450, 2_800, 5_001, RATE, AST_WINDOW])
def test_the_spectrogram_is_what_the_ast_extractor_makes(samples):
    clip = tone(700, 1.2)[:samples]
    frames = ENCODERS[AST].num_frames(CONFIGS[AST].to_dict(), samples)
    ours = made(AST).spectrogram(batch(clip), torch.tensor([samples]), min(frames, 9))
    close(ours, ast_features(clip)[:, : ours.shape[1]], 1e-4)


def grid_of(states, tokens=2, bands=3):
    """transformers' tokens without the first two, as [B, T, C]."""
    return states[0, tokens:].unflatten(0, (bands, -1))


@torch.no_grad()
@pytest.mark.parametrize("frequency", ["mean", "join"])
def test_ast_equals_transformers_at_the_full_window(frequency):
    ours, theirs = pair(AST, frequency=frequency)
    clip = tone(440, 1.2)[:AST_WINDOW]
    (frames,) = frames_of(ours, [clip])
    expected = grid_of(theirs(ast_features(clip)).last_hidden_state)
    expected = expected.mean(0) if frequency == "mean" else torch.cat(list(expected), dim=-1)
    close(frames, expected, 1e-4)


@torch.no_grad()
def test_a_shorter_clip_is_encoded_as_by_transformers_with_the_first_columns_of_the_table():
    ours, theirs = pair(AST)
    clip = tone(440, 0.5)  # 48 mel frames: 4 patches, which are 46 of them
    cut = deepcopy(CONFIGS[AST])
    cut.max_length = 46
    short, state = ASTModel(cut).eval(), theirs.state_dict()
    table = state["embeddings.position_embeddings"]
    columns = table[:, 2:].unflatten(1, (3, 9))[:, :, :4].flatten(1, 2)
    short.load_state_dict(state | {"embeddings.position_embeddings": torch.cat([table[:, :2], columns], dim=1)})
    expected = grid_of(short(ast_features(clip, 46)).last_hidden_state).mean(0)
    close(frames_of(ours, [clip])[0], expected, 1e-4)


@torch.no_grad()
def test_a_tapped_layer_of_ast_is_transformers_hidden_state():
    ours, theirs = pair(AST, taps=[1, -1])
    clip = tone(440, 1.2)[:AST_WINDOW]
    states = theirs(ast_features(clip), output_hidden_states=True).hidden_states
    close(frames_of(ours, [clip])[0], torch.cat([grid_of(state).mean(0) for state in states[1:3]], dim=-1), 1e-4)


# ------------------------------------------------------------------------------------------------------------ CLAP
def test_resampling_keeps_what_is_heard_and_adds_no_images():
    time = np.arange(3 * RATE) / (3 * RATE)
    hertz = [40, 333.3, 2_000, 5_100, 7_000]
    wave = sum(0.15 * np.sin(2 * np.pi * f * time + f) for f in hertz)  # tapered ends, as a window is not endless
    wave = (wave * np.hanning(len(time))).astype(np.float32)
    ours = upsampled(batch(wave[::3]), 3)[0]
    close(ours, torch.from_numpy(wave), 1e-5)
    close(ours, torch.from_numpy(resample(wave[::3].copy(), RATE, 3 * RATE)), 1e-4)  # soxr's own rounding
    spectrum = torch.fft.rfft(ours.double() * torch.hann_window(len(ours))).abs()
    assert spectrum[8_000:].max() < 3e-7 * spectrum.max()  # -130 dB; the spectrum has a bin a hertz


def clap_features(wave, truncation="fusion", padding="repeatpad"):
    extractor = ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation=truncation, padding=padding)
    return extractor(wave, sampling_rate=48_000, return_tensors="pt").input_features


@pytest.mark.parametrize("truncation", ["fusion", "rand_trunc"])
def test_the_spectrogram_is_what_the_clap_extractor_makes(truncation):
    config = deepcopy(CONFIGS[CLAP])
    config.front_end = {"max_length_s": 1, "truncation": truncation}
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    ours = ENCODERS[CLAP](config).spectrogram(batch(noise).double())
    close(ours, clap_features(noise, truncation)[:, 0].float(), 1e-3)  # decibels


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("samples", [7, 3_000, 5_000, 9_001, RATE])
def test_a_window_is_filled_as_the_clap_extractor_does(padding, samples):
    config = deepcopy(CONFIGS[CLAP])
    config.front_end = {"max_length_s": 1, "padding": padding}
    clip = tone(500, 1.0)[:samples]
    ours = ENCODERS[CLAP](config).filled(batch(clip), torch.tensor([samples]))
    wave = upsampled(batch(clip).double(), 3)[0].numpy()
    if padding == "repeat" and samples < RATE:
        expected = np.tile(wave, 48_000 // len(wave) + 1)[:48_000]
    else:
        expected = np.tile(wave, 48_000 // len(wave) if padding == "repeatpad" else 1)
    close(ours[0], torch.from_numpy(np.pad(expected, (0, 48_000 - len(expected)))), 1e-9)


def heard_by_clap(theirs, clip):
    features = clap_features(upsampled(batch(clip).double(), 3)[0].numpy())[:, :1].float()
    return theirs(features, is_longer=torch.zeros(1, 1, dtype=torch.bool))


@torch.no_grad()
@pytest.mark.parametrize("samples", [3_000, 9_001, RATE])
@pytest.mark.parametrize("frequency", ["mean", "join"])
def test_clap_equals_transformers_on_the_frames_that_begin_within_the_clip(frequency, samples):
    ours, theirs = pair(CLAP, frequency=frequency)
    clip = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    grid = heard_by_clap(theirs, clip).last_hidden_state[0]  # [C, B, T]
    expected = grid.mean(1).T if frequency == "mean" else torch.cat(list(grid.unbind(1)), dim=0).T
    (frames,) = frames_of(ours, [clip])
    assert len(frames) == -(-samples // 500)
    close(frames, expected[: len(frames)], 1e-3)


@torch.no_grad()
def test_a_fused_clap_hears_what_is_not_longer_through_the_first_of_four_images():
    config = deepcopy(CONFIGS[CLAP])
    config.update({"enable_fusion": True, "fusion_type": None})
    ours = shaken(ENCODERS[CLAP](config)).eval()
    theirs = ClapAudioModel(deepcopy(config)).eval()
    theirs.load_state_dict(ours.state_dict())
    clip = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    features = clap_features(upsampled(batch(clip).double(), 3)[0].numpy()).float()
    assert features.shape[1] == 4
    expected = theirs(features, is_longer=torch.zeros(1, 1, dtype=torch.bool)).last_hidden_state[0].mean(1).T
    close(frames_of(ours, [clip])[0], expected, 1e-3)


@torch.no_grad()
def test_a_tapped_stage_of_clap_is_transformers_hidden_state_in_the_order_of_time():
    config = deepcopy(CONFIGS[CLAP])
    config.update({"spec_size": 128, "num_mel_bins": 32, "depths": [1, 1, 1], "num_attention_heads": [1, 1, 1]})
    setattr(config, LISTENING, {"taps": [1, 2, 3]})
    ours = shaken(ENCODERS[CLAP](config)).eval()
    assert ENCODERS[CLAP].sections(config.to_dict()) == (16, 32, 32)
    clip = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    mel = ours.spectrogram(ours.filled(batch(clip), torch.tensor([RATE])))[:, None]
    states = ours.audio_encoder(mel, output_hidden_states=True).hidden_states
    (frames,) = frames_of(ours, [clip])
    for tapped, image in zip(frames.split([16, 32, 32], dim=-1), states[1:], strict=True):
        # four chunks above each other, side by side in time; then the mean of what falls into one of 32 frames
        line = torch.cat(list(image[0].chunk(4, dim=1)), dim=-1)
        close(tapped, line.mean(1).unflatten(-1, (32, -1)).mean(-1).T, 1e-4)


# ------------------------------------------------------------------------------------------- checkpoints of the whole
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_TEXT = {"model_type": "qwen2", "vocab_size": 32, "num_key_value_heads": 1, **TEXT}


def whole_model(name):
    """A whole model of transformers around the encoder, and the feature extractor that goes with it."""
    torch.manual_seed(0)
    config = deepcopy(CONFIGS[name])
    if name == AST:
        return ASTForAudioClassification(config), ASTFeatureExtractor(
            num_mel_bins=36, max_length=104, mean=-1.0, std=2.0
        )
    if name == CLAP:
        text = {**TEXT, "vocab_size": 32, "max_position_embeddings": 8}
        extractor = ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation="rand_trunc")
        return ClapModel(ClapConfig(text_config=text, audio_config=config.to_dict())), extractor
    kind, whole = {
        QWEN: (Qwen2AudioConfig, Qwen2AudioForConditionalGeneration),
        FLAMINGO: (AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration),
    }[name]
    return whole(kind(text_config=QWEN_TEXT, audio_config=config.to_dict(), audio_token_id=1)), None


def tower_of(whole):
    """The encoder in a whole model."""
    places = (("audio_spectrogram_transformer",), ("audio_model",), ("model", "audio_tower"))
    for place in places:
        if hasattr(whole, place[0]):
            for step in place:
                whole = getattr(whole, step)
            return whole
    raise AssertionError(whole)


@ALL
def test_a_checkpoint_of_the_whole_model_gives_its_tower_alone(name, tmp_path, caplog):
    whole, extractor = whole_model(name)
    config = getattr(whole.config, "audio_config", whole.config)
    if hasattr(config, "front_end"):
        del config.front_end  # the published configs have none
    whole.save_pretrained(tmp_path)
    if extractor:
        extractor.save_pretrained(tmp_path)
    tower, base = build_encoder(str(tmp_path), torch.float32)
    assert type(tower) is ENCODERS[name] and base["checkpoint"] == str(tmp_path)
    expected = tower_of(whole).state_dict()
    assert tower.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[key]) for key, weight in tower.state_dict().items())
    on_paper = encoder_on_paper(str(tmp_path)).to_dict()
    assert on_paper.get("front_end") == tower.config.to_dict().get("front_end")
    if extractor:
        said = on_paper["front_end"]
        assert all(getattr(extractor, key) == value for key, value in said.items())
        assert said != type(tower).FrontEnd().model_dump()


@ALL
def test_a_checkpoint_that_lacks_weights_is_refused(name, tmp_path):
    whole, _ = whole_model(name)
    whole.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    kept = {key: value for key, value in load_file(file).items() if "layers.0" not in key and "layer.0" not in key}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has no weights for .*layers\.0"):
        build_encoder(str(tmp_path), torch.float32)


def test_whisper_comes_without_its_decoder(tmp_path):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 64}
    sizes |= {"decoder_attention_heads": 2, "pad_token_id": 0, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    whole = WhisperForConditionalGeneration(WhisperConfig(**sizes))
    for model in (whole, whole.model):
        model.save_pretrained(tmp_path)
        tower, _ = build_encoder(str(tmp_path), torch.float32)
        expected = whole.model.encoder.state_dict()
        assert all(torch.equal(weight, expected[key]) for key, weight in tower.state_dict().items())


@ALL
def test_a_model_with_a_tower_from_a_folder_is_saved_and_loaded(name, tmp_path):
    encoder = made(name)
    encoder.save_pretrained(tmp_path / "tower")
    listening = {"taps": [1, -1], "normalize": True}
    built = build(
        encoder={"checkpoint": str(tmp_path / "tower"), **listening}, connector=MLP,
        llm={"config": {**LLM, "model_type": "qwen3"}}, tokenizer=tokenizer(),
    )  # fmt: skip
    heard = built.model.model.audio_tower
    assert frames_of(heard, CLIPS[2:3])[0].shape[1] == sum(ENCODERS[name].sections(heard.config.to_dict()))
    for trained in [set(), {"encoder"}][: 2 if name == AST else 1]:  # by name, or with its weights in the checkpoint
        save_checkpoint(built.model, built.processor, tmp_path / "saved", trained=trained)
        again = load_small_checkpoint(tmp_path / "saved").model.audio_tower
        for one, other in zip(frames_of(again, CLIPS[2:]), frames_of(heard, CLIPS[2:]), strict=True):
            assert torch.equal(one, other)
