"""Our encoders and their front ends, held against transformers' own models and feature extractors."""

import json

import numpy as np
import pytest
import torch
from encoders import CONFIGS
from safetensors.torch import load_file, save_file
from tiny import ENCODER, LLM, MLP, RATE, tokenizer, tone, unsettle
from transformers import (
    AutoModel,
    BertConfig,
    HubertForCTC,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertForCTC,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMForCTC,
)

from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.encoders import ENCODERS, encoder_config, encoder_of
from audiollm.models.encoders.parakeet import log_mel
from audiollm.models.encoders.self_supervised import normalized
from audiollm.models.encoders.w2v_bert import filter_bank_pairs
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.parts import build

VARIANTS = pytest.mark.parametrize("variant", [name for name in CONFIGS if name != "whisper"])
KINDS = pytest.mark.parametrize(
    "variant", ["wav2vec2", "hubert-norm", "wavlm-large", "conformer-rotary", "w2v-bert", "parakeet"]
)
"""One of each kind of arithmetic."""
LENGTHS = [400, 719, 720, 1_439, 5_000]
"""Samples, around the first frames of each front end."""


def extractor_of(config):
    """The feature extractor of a family."""
    if config["model_type"] == "wav2vec2-bert":
        return SeamlessM4TFeatureExtractor()
    if config["model_type"] == "parakeet_encoder":
        return ParakeetFeatureExtractor(feature_size=config["num_mel_bins"])
    return Wav2Vec2FeatureExtractor(do_normalize=config.get("do_normalize", True), return_attention_mask=False)


def make(variant, **changes):
    """Our encoder of a variant."""
    kind, config = CONFIGS[variant]
    config = encoder_config({"model_type": kind, "do_normalize": True, **config, **changes})
    torch.manual_seed(0)
    return unsettle(encoder_of(config.to_dict())(config)).eval()


def make_pair(variant, **changes):
    """Our encoder and transformers' own with the same weights."""
    ours = make(variant, **changes)
    theirs = AutoModel.from_config(ours.config).eval()
    assert not theirs.load_state_dict(ours.state_dict(), strict=False).unexpected_keys
    return ours, theirs


@torch.no_grad()
def hear(encoder, *clips):
    """The frames of each clip, heard together."""
    lengths = torch.tensor([len(clip) for clip in clips])
    values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    frames, mask = encoder(values, torch.arange(values.shape[1]) < lengths[:, None])
    return [one[keep] for one, keep in zip(frames, mask, strict=True)]


def clip_of(length):
    return tone(300 + length % 700, length / RATE, seed=length)[:length] + np.float32(0.05)


def theirs_of(model, config, clip, **options):
    """What transformers makes of one clip, without frames that its own mask leaves out."""
    inputs = extractor_of(config)(clip, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        heard = model(**inputs, **options)
    mask = getattr(heard, "attention_mask", inputs.get("attention_mask"))
    return heard, slice(None) if mask is None else mask[0].bool()


@VARIANTS
def test_a_clip_alone_and_among_others_is_encoded_as_by_the_original_model_alone(variant):
    ours, theirs = make_pair(variant)
    config = ours.config.to_dict()
    least = getattr(ours, "least", ours.receptive_field)(config)
    clips = [clip_of(length) for length in LENGTHS if length >= least]
    for clip, among_others in zip(clips, hear(ours, *clips), strict=True):
        heard, mask = theirs_of(theirs, config, clip)
        (alone,) = hear(ours, clip)
        # float32; the front ends of two of them in numpy's float64
        torch.testing.assert_close(alone, heard.last_hidden_state[0][mask], atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(among_others, heard.last_hidden_state[0][mask], atol=2e-4, rtol=1e-4)


@KINDS
def test_taps_are_the_raw_outputs_of_the_layers(variant):
    ours, theirs = make_pair(variant, listening={"taps": [2, 1]})
    clip = clip_of(5_000)
    layers = theirs.layers if variant == "parakeet" else theirs.encoder.layers
    raw, first = [], lambda output: output[0] if isinstance(output, tuple) else output
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: raw.append(first(output)))
    _, mask = theirs_of(theirs, ours.config.to_dict(), clip)
    (frames,) = hear(ours, clip)
    torch.testing.assert_close(frames, torch.cat([raw[1][0], raw[0][0]], dim=-1)[mask], atol=2e-4, rtol=1e-4)


def test_a_tapped_layer_of_sew_is_heard_twice_for_each_pair_of_frames():
    ours, theirs = make_pair("sew", listening={"taps": [1]})
    raw = []
    theirs.encoder.layers[0].register_forward_hook(lambda _, __, output: raw.append(output))
    theirs_of(theirs, ours.config.to_dict(), clip_of(5_000))
    (frames,) = hear(ours, clip_of(5_000))
    assert len(frames) == 15 and len(raw[0][0]) == 7
    expected = raw[0][0][[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]]
    torch.testing.assert_close(frames, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 400, 8_123])
def test_clips_are_normalised_as_the_extractor_does(length):
    clips = [clip_of(length), clip_of(9_000) * 0.01]
    values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    ours = normalized(values, torch.tensor([length, 9_000]))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    theirs = extractor(clips, sampling_rate=RATE, return_tensors="pt", padding=True).input_values
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)  # float32 sums in another order


@pytest.mark.parametrize("length", [560, 719, 720, 8_123, 16_160])
def test_the_filter_bank_of_w2v_bert_equals_the_feature_extractor(length):
    clips = [clip_of(length), clip_of(20_000) * 0.01]
    values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    ours, mask = filter_bank_pairs(values, torch.tensor([length, 20_000]), 80)
    theirs = SeamlessM4TFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="pt")
    assert torch.equal(mask.long(), theirs.attention_mask[:, : mask.shape[1]].long())
    # the extractor computes in float64; a bin that hardly moves in a clip has its rounding divided by that movement
    torch.testing.assert_close(ours[mask], theirs.input_features[:, : mask.shape[1]][mask], atol=2e-3, rtol=0)


@pytest.mark.parametrize("length", [320, 1_439, 1_440, 8_123, 16_160])
def test_the_log_mel_of_parakeet_equals_the_feature_extractor(length):
    clips = [clip_of(length), clip_of(20_000) * 0.01]
    values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    ours, mask = log_mel(values, torch.tensor([length, 20_000]), 80)
    theirs = ParakeetFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="pt")
    assert torch.equal(mask, theirs.attention_mask[:, : mask.shape[1]])
    torch.testing.assert_close(ours, theirs.input_features[:, : mask.shape[1]], atol=1e-3, rtol=0)  # rounding, divided


@pytest.mark.parametrize("model_type", ["wavlm", "wav2vec2"])
def test_an_encoder_from_scratch_normalises_as_its_family_was_published(model_type):
    base, large = ({"feat_extract_norm": norm} for norm in ("group", "layer"))
    family = ENCODERS[model_type]
    assert family.normalizes(large) and family.normalizes(base) == (model_type == "wav2vec2")
    assert not family.normalizes(large | {"do_normalize": False})


# --------------------------------------------------------------------------------------------------- from saved folders
HEADS = {
    "wav2vec2": Wav2Vec2ForCTC, "hubert-large": HubertForCTC, "wavlm": WavLMForCTC, "w2v-bert": Wav2Vec2BertForCTC,
    "parakeet": ParakeetForCTC,
}  # fmt: skip


def save(variant, folder, head):
    """A folder with a model of transformers' own and its feature extractor; the model's encoder."""
    torch.manual_seed(0)
    kind, sizes = CONFIGS[variant]
    config = encoder_config({"model_type": kind, **sizes, "vocab_size": 12})
    if variant == "parakeet" and head:
        config = ParakeetCTCConfig(encoder_config=config.to_dict(), vocab_size=12, pad_token_id=11)
    whole = (HEADS[variant](config) if head else AutoModel.from_config(config)).eval()
    unsettle(whole)
    whole.save_pretrained(folder)
    extractor_of({"model_type": kind, **sizes, "do_normalize": False}).save_pretrained(folder)
    return getattr(whole, whole.base_model_prefix if variant != "parakeet" else "encoder", whole)


@pytest.mark.parametrize("head", [False, True], ids=["base", "ctc"])
@pytest.mark.parametrize("variant", HEADS)
def test_a_folder_is_loaded_by_what_it_is(variant, head, tmp_path):
    theirs = save(variant, tmp_path, head)
    ours = ENCODERS[CONFIGS[variant][0]].load(str(tmp_path))
    clip = clip_of(5_000)
    heard, mask = theirs_of(theirs, {**ours.config.to_dict(), "do_normalize": False}, clip)
    torch.testing.assert_close(hear(ours.eval(), clip)[0], heard.last_hidden_state[0][mask], atol=2e-4, rtol=1e-4)


def test_a_folder_is_built_into_a_model_saved_by_its_name_and_loaded(tmp_path):
    save("wav2vec2", tmp_path / "base", head=True)
    whisper = {"config": ENCODER, "taps": [1]}
    listened = {"checkpoint": str(tmp_path / "base"), "taps": [1, -1], "window_s": 0.5, "overlap_s": 0.1}
    llm = {"config": {"model_type": "qwen3", **LLM}}
    values = torch.from_numpy(clip_of(16_160))[None]
    for name, encoder in {"alone": listened, "beside": [whisper, listened]}.items():
        built = build(encoder=encoder, connector=MLP, llm=llm, tokenizer=tokenizer())
        save_checkpoint(built.model, built.processor, tmp_path / name)
        stored = load_file(tmp_path / name / "model.safetensors")
        assert any("audio_tower" in tensor for tensor in stored) == (name == "beside")  # Whisper was made from scratch
        loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path / name)
        ours, theirs = (m.get_audio_features(values, values == values).pooler_output for m in (built.model, loaded))
        assert torch.equal(ours, theirs) and len(ours) == loaded.config.num_audio_tokens(16_160)
    config = loaded.model.audio_tower.towers[1].config.to_dict()
    assert config["do_normalize"] is False and config["listening"] == {k: listened[k] for k in list(listened)[1:]}


def test_a_model_that_is_no_encoder_is_one_sentence(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a 'bert' model, not an encoder; known: .*hubert.*wavlm"):
        build(encoder=str(tmp_path), connector=MLP, llm={"config": LLM}, tokenizer=tokenizer())


def test_weights_by_their_older_names_are_read_and_missing_ones_are_refused(tmp_path):
    theirs = save("hubert-large", tmp_path, head=True)
    weights = load_file(tmp_path / "model.safetensors")
    older = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, old in older.items():  # as in every published checkpoint
        weights = {name.replace(new, old): tensor for name, tensor in weights.items()}
    assert any(name.endswith("pos_conv_embed.conv.weight_g") for name in weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = ENCODERS["hubert"].load(str(tmp_path)).state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.state_dict().items() if name in ours)
    del weights["hubert.encoder.layer_norm.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"has no weights for encoder.layer_norm.bias ...; it is not a checkpoint of Hu"
    ):
        ENCODERS["hubert"].load(str(tmp_path))


@pytest.mark.parametrize(
    ("variant", "setting"),
    [("wavlm", {"sampling_rate": 8_000}), ("parakeet", {"n_fft": 400}), ("w2v-bert", {"stride": 4})],
)
def test_a_front_end_that_is_not_ours_is_refused(variant, setting, tmp_path):
    save(variant, tmp_path, head=False)
    extractor = extractor_of({"model_type": CONFIGS[variant][0], "num_mel_bins": 80}).to_dict() | setting
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
    (name, value), *_ = setting.items()
    with pytest.raises(ValueError, match=f"its feature extractor has {name}={value}, and only .* is computed here"):
        ENCODERS[CONFIGS[variant][0]].load(str(tmp_path))


def test_a_folder_without_a_feature_extractor_is_heard_as_published_and_that_is_said(tmp_path, caplog):
    save("wavlm", tmp_path, head=False)
    (tmp_path / "preprocessor_config.json").unlink()
    encoder = ENCODERS["wavlm"].load(str(tmp_path))
    assert not encoder.normalizes(encoder.config.to_dict())
    assert "has no preprocessor_config.json; its front end is taken to be the published one" in caplog.text


def test_an_adapter_is_left_out_and_that_is_said(tmp_path, caplog):
    config = make("w2v-bert").config
    config.update({"add_adapter": True, "use_intermediate_ffn_before_adapter": True, "mask_time_prob": 0.05})
    theirs = AutoModel.from_config(config)
    theirs.save_pretrained(tmp_path)
    ours = ENCODERS["wav2vec2-bert"].load(str(tmp_path)).eval()
    assert "the encoder's adapter is left out" in caplog.text
    theirs.adapter = theirs.intermediate_ffn = None
    heard, mask = theirs_of(theirs.eval(), ours.config.to_dict(), clip_of(5_000))
    torch.testing.assert_close(hear(ours, clip_of(5_000))[0], heard.last_hidden_state[0][mask], atol=2e-4, rtol=1e-4)
    assert encoder_config(ours.config.to_dict()).add_adapter is False


# ----------------------------------------------------------------------------------------------- in training, and small
@KINDS
def test_in_training_nothing_is_random_but_dropout(variant):
    encoder = make(variant)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_positions"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    clips = [clip_of(5_000), clip_of(720)]
    before = hear(encoder, *clips)
    encoder.train()
    for one, other in zip(hear(encoder, *clips), before, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for one, other in zip(hear(encoder.eval(), *clips), before, strict=True):
        assert torch.equal(one, other)  # no statistics of a batch were kept


def test_clips_one_by_one_are_refused_where_ranks_share_the_weights():
    encoder = make("sew")
    next(encoder.encoder.parameters()).ds_id = 0  # as ZeRO-3 marks a parameter
    with pytest.raises(ValueError, match=r"sew hears one clip after another, .* leave FSDP2 or ZeRO-3 out"):
        hear(encoder, clip_of(5_000))


@KINDS
def test_an_encoder_in_bfloat16_hears_nearly_the_same(variant):
    (wide,) = hear(make(variant), clip_of(5_000))
    (narrow,) = hear(make(variant).to(torch.bfloat16), clip_of(5_000))
    assert narrow.dtype == torch.bfloat16
    assert float((narrow - wide).square().mean().sqrt()) < 0.1 * float(wide.square().mean().sqrt())
