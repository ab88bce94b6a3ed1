"""How encoders are listened to: tapped layers, normalised, in windows that may overlap, several side by side."""

import math

import pytest
import torch
from tiny import ENCODER, LLM, MLP, QFORMER, RATE, tokenizer, tone, unsettle
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiollm.data.collate import pad_waveforms
from audiollm.models.checkpoint import load_small_checkpoint, save_checkpoint
from audiollm.models.connectors import build_connector, check_connector
from audiollm.models.encoders import ENCODERS, SideBySide, SideBySideConfig
from audiollm.models.encoders.side_by_side import retime
from audiollm.models.encoders.whisper import log_mel
from audiollm.models.listening import LISTENING
from audiollm.models.parts import build, build_encoder, encoder_on_paper

AST = "audio-spectrogram-transformer"
AST_SIZES = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "num_mel_bins": 36,
    "max_length": 104, "initializer_range": 0.2,
}  # fmt: skip
CLIPS = [tone(300 + 170 * n, s, seed=n) for n, s in enumerate([0.1, 0.33, 0.7777, 1.0, 2.41])]


def whisper(**listening):
    torch.manual_seed(0)
    config = WhisperConfig(**ENCODER)
    setattr(config, LISTENING, listening)
    return unsettle(ENCODERS["whisper"](config)).eval()


@torch.no_grad()
def frames_of(encoder, clips):
    frames, kept = encoder(**pad_waveforms(clips))
    assert not frames[~kept].any()
    return [one[keep] for one, keep in zip(frames, kept, strict=True)]


def assert_same(ours, theirs):
    assert [len(one) for one in ours] == [len(one) for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------------ layers
@torch.no_grad()
@pytest.mark.parametrize("taps", [[1], [2, 1], [-1, -2], [1, 2, 2]], ids=str)
def test_tapped_layers_stand_side_by_side_as_they_leave_the_layer(taps):
    ours = whisper(taps=taps)
    theirs = WhisperEncoder(WhisperConfig(**ENCODER)).eval()
    theirs.load_state_dict(ours.state_dict())
    outputs = []
    for layer in theirs.layers:
        layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    theirs(log_mel(torch.from_numpy(CLIPS[3])[None], torch.tensor([RATE]), RATE, 80))
    expected = torch.cat([outputs[tap - 1 if tap > 0 else tap] for tap in taps], dim=-1)
    assert_same(frames_of(ours, CLIPS[3:4]), expected)
    assert ENCODERS["whisper"].sections(ours.config.to_dict()) == (16,) * len(taps)


def test_no_layer_after_the_last_tap_is_run():
    encoder = whisper(taps=[1])
    encoder.layers[1].register_forward_hook(lambda *_: pytest.fail("was run"))
    frames_of(encoder, CLIPS)


@pytest.mark.parametrize("tap", [0, 3, -3])
def test_a_layer_that_there_is_not_is_refused(tap):
    with pytest.raises(ValueError, match=f"names layer {tap}, which is not there; layers are 1 to 2, or -2 to -1"):
        encoder_on_paper({"name": "whisper", "config": ENCODER, "taps": [1, tap]})


@pytest.mark.parametrize("taps", [None, [1, 2]])
def test_a_normalised_layer_has_mean_0_and_variance_1_in_each_frame(taps):
    plain, normal = (frames_of(whisper(taps=taps, normalize=normalize), CLIPS) for normalize in (False, True))
    for one, other in zip(plain, normal, strict=True):
        for layer, raw in zip(other.split(16, dim=-1), one.split(16, dim=-1), strict=True):
            torch.testing.assert_close(layer.mean(-1), torch.zeros(len(layer)), atol=1e-5, rtol=0)
            torch.testing.assert_close(layer.var(-1, correction=0), torch.ones(len(layer)), atol=1e-3, rtol=0)
            correlation = torch.cosine_similarity(layer, raw - raw.mean(-1, keepdim=True), dim=-1)
            torch.testing.assert_close(correlation, torch.ones(len(layer)))


def test_frequency_is_for_encoders_that_have_it():
    with pytest.raises(ValueError, match=r"encoder\.frequency is for encoders whose frames are patches"):
        encoder_on_paper({"name": "whisper", "config": ENCODER, "frequency": "join"})
    joined = encoder_on_paper({"name": AST, "config": AST_SIZES, "frequency": "join"}).to_dict()
    assert ENCODERS[AST].width(joined) == 3 * 12


# ----------------------------------------------------------------------------------------------------------- windows
def by_windows(encoder, clip, window, hop):
    """The frames of a clip by the drawing: each window alone, of what two share the first half from the earlier."""
    total = -(-len(clip) // 320)
    starts = [0]
    while starts[-1] + window < total:
        starts.append(starts[-1] + hop)
    alone = [frames_of(encoder, [clip[start * 320 : (start + window) * 320]])[0] for start in starts]
    half = (window - hop) // 2
    picked = []
    for t in range(total):
        number = max(n for n, start in enumerate(starts) if n == 0 or t >= start + half)
        picked.append(alone[number][t - starts[number]])
    return torch.stack(picked)


@pytest.mark.parametrize(("window_s", "overlap_s"), [(None, 0.0), (0.5, 0.0), (0.3, 0.1), (0.3, 0.22), (None, 0.5)])
def test_long_clips_are_heard_in_windows_that_may_overlap(window_s, overlap_s):
    encoder, plain = whisper(window_s=window_s, overlap_s=overlap_s), whisper()
    window = round((window_s or 1.0) * 50)
    expected = [by_windows(plain, clip, window, window - round(overlap_s * 50)) for clip in CLIPS]
    assert_same(frames_of(encoder, CLIPS), expected)


@pytest.mark.parametrize(
    ("listening", "message"),
    [
        ({"window_s": 1.02}, r"window_s is 1\.02, more than the 1 s that it can hear"),
        ({"overlap_s": 1.0}, r"overlap_s is 1\.0, and must be less than the window, 1 s"),
        ({"window_s": 0.2, "overlap_s": 0.3}, r"overlap_s is 0\.3, and must be less than the window, 0\.2 s"),
    ],
)
def test_windows_that_do_not_fit_are_refused(listening, message):
    with pytest.raises(ValueError, match=message):
        encoder_on_paper({"name": "whisper", "config": ENCODER, **listening})


# ----------------------------------------------------------------------------------------------------- a mix of layers
def mixed(block, sections):
    torch.manual_seed(0)
    block = check_connector({**block, "mix_layers": True})
    return build_connector(block, dim_in=sum(sections), dim_out=24, frame_rate_hz=50.0, sections=sections).eval()


@pytest.mark.parametrize("block", [MLP, QFORMER], ids=lambda block: block["name"])
def test_layers_are_mixed_before_the_connector_with_weights_that_sum_to_one(block):
    connector = mixed(block, (16, 16, 16))
    frames, mask = torch.randn(2, 9, 48), torch.arange(9) < torch.tensor([[9], [5]])
    one, two, three = frames.split(16, dim=-1)
    ours, kept = connector(frames, mask)
    theirs, their_mask = connector.connector((one + two + three) / 3, mask)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(kept, their_mask)
    connector.layer_logits.data = torch.tensor([0.0, math.log(2), math.log(5)])
    ours, _ = connector(frames, mask)
    torch.testing.assert_close(ours, connector.connector((one + 2 * two + 5 * three) / 8, mask)[0])
    (ours * torch.randn(ours.shape)).sum().backward()
    assert connector.layer_logits.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("sections", "message"),
    [((16,), "several layers, and one is heard; name several under `encoder.taps`"), ((16, 12), "these have 16, 12")],
)
def test_what_cannot_be_mixed_is_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        mixed(MLP, sections)


# --------------------------------------------------------------------------------------------------------- side by side
def overlapping(frames, rate, count, wanted):
    """Each wanted frame is the mean of those that share time with it; past the end it is the last one."""
    out = []
    for t in range(count):
        start, stop = t / wanted, (t + 1) / wanted
        shared = [f for n, f in enumerate(frames) if n / rate < stop - 1e-6 and (n + 1) / rate > start + 1e-6]
        out.append(torch.stack(shared or [frames[-1]]).mean(0))
    return torch.stack(out)


@pytest.mark.parametrize(("rate", "wanted"), [(50, 25), (20, 50), (10, 50), (50, 10), (3.2, 50), (25, 12.5), (50, 50)])
def test_frames_at_another_rate_are_the_means_of_those_they_overlap(rate, wanted):
    frames, lengths = torch.randn(3, 11, 4), torch.tensor([11, 7, 1])
    count = math.ceil(11 / rate * wanted) + 3
    ours = retime(frames, lengths, rate, count, wanted)
    for one, other, length in zip(ours, frames, lengths, strict=True):
        torch.testing.assert_close(one, overlapping(other[:length], rate, count, wanted))
    if rate == wanted:
        assert torch.equal(ours[0, :11], frames[0])
    constant = retime(torch.ones(1, 11, 4), lengths[:1], rate, count, wanted)
    torch.testing.assert_close(constant, torch.ones(1, count, 4))


def test_another_rate_does_not_hear_the_padding():
    frames, lengths = torch.randn(2, 11, 4), torch.tensor([11, 4])
    noisy = torch.where((torch.arange(11) < lengths[:, None])[..., None], frames, 9.0)
    assert torch.equal(retime(noisy, lengths, 10.0, 60, 50.0), retime(frames, lengths, 10.0, 60, 50.0))


def both(order, **listening):
    specs = {"whisper": {"name": "whisper", "config": ENCODER}, AST: {"name": AST, "config": AST_SIZES}}
    torch.manual_seed(0)
    tower, base = build_encoder([{**specs[name], **listening} for name in order], torch.float32)
    assert base is None
    return unsettle(tower).eval()


ORDERS = pytest.mark.parametrize("order", [("whisper", AST), (AST, "whisper")], ids=lambda order: order[0])


@ORDERS
def test_encoders_side_by_side_hear_each_clip_of_a_batch_as_alone(order):
    encoder = both(order)
    assert_same(frames_of(encoder, CLIPS), [frames_of(encoder, [clip])[0] for clip in CLIPS])


@ORDERS
@pytest.mark.parametrize("taps", [None, [1, 2]])
def test_each_section_is_normalised_and_at_the_rate_of_the_first(order, taps):
    encoder = both(order, **({"taps": taps} if taps else {}))
    config = encoder.config.to_dict()
    widths = {"whisper": 16, AST: 12}
    sections = SideBySide.sections(config)
    assert sections == tuple(widths[name] for name in order for _ in taps or [0])
    assert SideBySide.width(config) == sum(sections) and SideBySide.num_layers(config) == 4
    rate = {"whisper": 50.0, AST: 10.0}
    assert SideBySide.frame_rate_hz(config) == rate[order[0]]
    for clip, frames in zip(CLIPS, frames_of(encoder, CLIPS), strict=True):
        assert frames.shape == (SideBySide.num_frames(config, len(clip)), sum(sections))
        alone = [frames_of(tower, [clip])[0] for tower in encoder.towers]
        alone[1] = overlapping(alone[1], rate[order[1]], len(frames), rate[order[0]])
        expected = [part for one, name in zip(alone, order, strict=True) for part in one.split(widths[name], dim=-1)]
        for ours, part in zip(frames.split(sections, dim=-1), expected, strict=True):
            part = part - part.mean(-1, keepdim=True)
            part = part / (part.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            torch.testing.assert_close(ours, part, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two encoders as public bases, in folders."""
    made = tmp_path_factory.mktemp("bases")
    order = ("whisper", AST)
    for name, tower in zip(order, both(order).towers, strict=True):
        tower.save_pretrained(made / name)
    return [str(made / name) for name in order]


@pytest.mark.parametrize("trained", [set(), {"encoder"}])
def test_a_model_with_two_public_encoders_is_saved_and_loaded(folders, tmp_path, trained):
    first, second = folders
    built = build(
        encoder=[{"checkpoint": first, "taps": [1, 2]}, {"checkpoint": second, "frequency": "join"}], connector=MLP,
        llm={"config": {**LLM, "model_type": "qwen3"}}, tokenizer=tokenizer(),
    )  # fmt: skip
    assert [base["checkpoint"] for base in built.model.config.bases["encoder"]["several"]] == folders
    save_checkpoint(built.model, built.processor, tmp_path / "saved", trained=trained)
    again = load_small_checkpoint(tmp_path / "saved")
    heard = [frames_of(model.model.audio_tower, CLIPS) for model in (built.model, again)]
    assert heard[0][0].shape[1] == 2 * 16 + 3 * 12
    assert all(torch.equal(one, other) for one, other in zip(*heard, strict=True))


def test_one_of_two_bases_that_changed_is_refused(folders, tmp_path):
    built = build(encoder=folders, connector=MLP, llm={"config": {**LLM, "model_type": "qwen3"}}, tokenizer=tokenizer())
    built.model.config.bases["encoder"]["several"][1]["fingerprint"] = "another"
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    with pytest.raises(ValueError, match=f"{AST} is not the model that this checkpoint was trained with"):
        load_small_checkpoint(tmp_path / "saved")


def test_the_configs_of_several_survive_their_json(tmp_path):
    config = both(("whisper", AST), taps=[1], window_s=0.5).config
    config.save_pretrained(tmp_path)
    again = SideBySideConfig.from_pretrained(tmp_path)
    assert SideBySide.sections(again.to_dict()) == SideBySide.sections(config.to_dict()) == (16, 12)
    assert again.encoders[1]["front_end"] == config.encoders[1]["front_end"]
