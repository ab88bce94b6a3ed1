"""Connectors are what their designs say: formulas, gradients, lengths, parameter counts, loudness."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tiny import CONNECTOR_BLOCKS, ENCODER, LLM, LLMS, MLP, sections_of, tokenizer, unsettle

from audiollm.models.connectors import CONNECTORS, build_connector, check_connector
from audiollm.models.connectors.table import PUBLISHED, connector_table, num_parameters, num_tokens
from audiollm.models.parts import build, match_connector_scale

LENGTHS = [*range(1, 40), 74, 75, 255, 511, 1023, 1499, 1500, 1501, 2999, 4750]
"""Frames at 50 Hz, up to 95 s."""
LISTED = list(CONNECTOR_BLOCKS.values())


def name_of(block):
    return block["name"]


def make(block, dim_in=16, dim_out=24, seed=0):
    torch.manual_seed(seed)
    sections = sections_of(block, dim_in)
    made = build_connector(
        check_connector(block), dim_in=dim_in, dim_out=dim_out, frame_rate_hz=50.0, sections=sections
    )
    return unsettle(made).eval()


def whole(frames_NTC):
    return torch.ones(frames_NTC.shape[:2], dtype=torch.bool)


# ------------------------------------------------------------------------------------------------------------ lengths
def stacked(k):
    """ceil(T / k), and what code gives that leaves out T mod k frames."""
    return lambda t: math.ceil(t / k), lambda t: (t - t % k) // k


PUBLISHED_LENGTHS = {
    "mlp": ({"stack": 5}, *stacked(5)),
    "conv": ({"stack": 5}, stacked(5)[0], lambda t: (t + 2 * 0 - 1 * (5 - 1) - 1) // 5 + 1),  # as a convolution's
    "pool_linear": ({"pool": 2}, stacked(2)[0], lambda t: (t - 2) // 2 + 1),  # as Qwen2-Audio counts
    "swiglu": ({"stack": 8}, *stacked(8)),
    "window_qformer": ({}, stacked(17)[0], lambda t: (t - 17) // 17 + 1),  # as SALMONN's unfold
}


@pytest.mark.parametrize("name", PUBLISHED_LENGTHS)
def test_a_clip_becomes_as_many_vectors_as_in_the_published_code(name):
    settings, padded, dropped = PUBLISHED_LENGTHS[name]
    for frames in LENGTHS:
        assert num_tokens({"name": name, **settings}, frames) == padded(frames)
        # where published code has nothing for a clip shorter than one window, ours has one vector
        assert num_tokens({"name": name, **settings, "remainder": "drop"}, frames) == max(1, dropped(frames))


@pytest.mark.parametrize("name", ["global_qformer", "layer_qformer", "perceiver"])
def test_queries_for_a_whole_clip_cost_the_same_however_long_it_is(name):
    assert {num_tokens({"name": name}, frames) for frames in LENGTHS} == {64}
    windows = {"name": name, "window_s": 30.0, "num_queries": 10}
    assert [num_tokens(windows, frames) for frames in (1, 1500, 1501, 4750)] == [10, 10, 20, 40]


def test_the_rates_of_the_public_systems_follow():
    tokens = {design: num_tokens(block, 1500) for design, block in PUBLISHED.items()}
    assert tokens == {
        "SLAM-LLM, linear": 300, "LLaVA, LLaSO": 1500, "Audio Flamingo 3": 750, "SLAM-LLM, convolution": 300,
        "Qwen2-Audio": 750, "LTU": 750, "Ultravox 0.5": 188, "Ultravox 0.4": 188, "SALMONN": 88, "Granite Speech": 300,
        "SLAM-LLM, Q-Former": 64, "DeSTA2.5": 64, "Flamingo's resampler": 64,
    }  # fmt: skip
    assert num_tokens(PUBLISHED["LTU"], 64) == 32  # its own encoder gives 64 frames for 10 s


@pytest.mark.parametrize("remainder", ["pad", "drop"])
@pytest.mark.parametrize("block", LISTED, ids=name_of)
def test_the_number_of_vectors_is_the_number_foretold_clip_by_clip(block, remainder):
    if "remainder" in CONNECTORS[block["name"]].Settings.model_fields:
        block = {**block, "remainder": remainder}
    module = make(block)
    lengths = torch.tensor([1, 2, 4, 5, 6, 11, 12, 30])
    mask = torch.arange(30) < lengths[:, None]
    with torch.no_grad():
        vectors, kept = module(torch.randn(8, 30, 16), mask)
    assert kept.sum(-1).tolist() == [num_tokens(block, length) for length in lengths.tolist()]
    assert vectors.shape == (*kept.shape, 24)
    assert vectors.isfinite().all()


@pytest.mark.parametrize("name", PUBLISHED_LENGTHS)
def test_frames_of_a_dropped_remainder_are_not_heard_and_those_of_a_padded_one_are(name):
    for remainder, heard in (("pad", True), ("drop", False)):
        frames = torch.randn(1, 7, 16, requires_grad=True)  # one window of five, and two frames
        short = {"window_s": 0.1} if name == "window_qformer" else {"pool" if name == "pool_linear" else "stack": 5}
        vectors, kept = make({**CONNECTOR_BLOCKS[name], **short, "remainder": remainder})(frames, whole(frames))
        vectors[kept].square().sum().backward()
        assert (frames.grad[0].abs().sum(-1) > 0).tolist() == [True] * 5 + [heard] * 2


# --------------------------------------------------------------------------------------------------- parameter counts
def test_parameters_are_as_many_as_published():
    assert num_parameters(PUBLISHED["SLAM-LLM, linear"]) == 21_501_952
    assert num_parameters(PUBLISHED["LLaVA, LLaSO"], dim_out=3584) == 17_439_744
    assert num_parameters(PUBLISHED["Audio Flamingo 3"], dim_out=3584) == 17_439_744 + 2 * 1280  # the encoder's norm
    assert num_parameters(PUBLISHED["SLAM-LLM, convolution"], dim_in=1024) == 15_735_808
    assert num_parameters(PUBLISHED["Ultravox 0.5"]) == 50_343_936
    assert num_parameters(PUBLISHED["Ultravox 0.4"]) == 50_343_936 - 2048 + 4096
    assert num_parameters(PUBLISHED["SALMONN"], dim_in=2048) == 22_838_016 + 2 * 2048 + (768 + 1) * 4096
    assert num_parameters(PUBLISHED["DeSTA2.5"]) == 131_540_224
    assert num_parameters(PUBLISHED["Qwen2-Audio"]) == (1280 + 1) * 4096 + 2 * 1280  # the encoder's norm
    assert num_parameters(PUBLISHED["LTU"], dim_in=768) == (768 + 1) * 4096


def test_the_slam_llm_qformer_has_the_parameters_of_its_layers():
    width, frames = 768, 1280
    attention = 2 * (width + 1) * width + 2 * width  # query, output, norm
    self_attention, cross_attention = attention + 2 * (width + 1) * width, attention + 2 * (frames + 1) * width
    feed_forward = (width + 1) * 3072 + (3072 + 1) * width + 2 * width
    layers = 8 * (self_attention + feed_forward) + 4 * cross_attention
    expected = 64 * width + 2 * width + layers + (width + 1) * 4096 + 2 * 4096
    assert num_parameters(PUBLISHED["SLAM-LLM, Q-Former"]) == expected


def test_the_table_in_the_documents_is_the_generated_one():
    page = Path(__file__).resolve().parents[2] / "docs" / "connectors.md"
    assert connector_table() in page.read_text(), "python -m audiollm.models.connectors.table"


# ------------------------------------------------------------------------------------------------------------ oracles
def windows_of(frames_TC, size, fill):
    """Windows of one clip; the last one is filled with zeros, or short."""
    cut = [frames_TC[start : start + size] for start in range(0, len(frames_TC), size)]
    return [torch.cat([one, one.new_zeros(size - len(one), one.shape[1])]) for one in cut] if fill else cut


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)


def layer_norm(p, name, x, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return normed * p[f"{name}.weight"] + p[f"{name}.bias"] if name else normed


def rms_norm(p, name, x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * p[f"{name}.weight"]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(q, k, v, heads):
    """Attention head by head."""
    parts = zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
    return torch.cat([torch.softmax(a @ b.T / math.sqrt(a.shape[-1]), -1) @ c for a, b, c in parts], -1)


def attention_block(p, at, x, read, heads):
    q, k, v = (linear(p, f"{at}.attention.{part}", y) for part, y in (("query", x), ("key", read), ("value", read)))
    return layer_norm(p, f"{at}.output.LayerNorm", linear(p, f"{at}.output.dense", attend(q, k, v, heads)) + x, 1e-12)


def qformer_layers(p, at, x, read, settings, every=1):
    for number in range(settings.num_layers):
        layer = f"{at}.layer.{number}"
        x = attention_block(p, f"{layer}.attention", x, x, settings.num_heads)
        if number % every == 0:
            x = attention_block(p, f"{layer}.crossattention", x, read, settings.num_heads)
        inner = linear(p, f"{layer}.output_query.dense", gelu(linear(p, f"{layer}.intermediate_query.dense", x)))
        x = layer_norm(p, f"{layer}.output_query.LayerNorm", inner + x, 1e-12)
    return x


def mlp_formula(p, s, frames):
    for window in windows_of(frames, s.stack, fill=s.join == "stack"):
        joined = window.flatten() if s.join == "stack" else window.mean(0)
        joined = {"none": lambda x: x, "plain": lambda x: layer_norm(p, "", x)}.get(
            s.norm, lambda x: layer_norm(p, "norm", x)
        )(joined)
        inner = linear(p, "input", joined)
        yield linear(p, "output", gelu(inner) if s.activation == "gelu" else inner.clamp(min=0))


def conv_formula(p, s, frames):
    for window in windows_of(frames, s.stack, fill=True):
        convolved = sum(p["conv.weight"][:, :, k] @ window[k] for k in range(s.stack)) + p["conv.bias"]
        yield linear(p, "output", linear(p, "input", convolved.clamp(min=0)).clamp(min=0))


def pool_linear_formula(p, s, frames):
    for window in windows_of(frames, s.pool, fill=False):
        pooled = window.mean(0) / s.divide_by
        normed = {"none": pooled, "plain": layer_norm(p, "", pooled)}.get(s.norm)
        yield linear(p, "output", layer_norm(p, "norm", pooled) if normed is None else normed)


def swiglu_formula(p, s, frames):
    for window in windows_of(frames, s.stack, fill=True):
        value, gate = linear(p, "input", rms_norm(p, "input_norm", window.flatten())).chunk(2)
        gated = gate / (1 + torch.exp(-gate)) * value
        if s.norm == "mid":
            yield linear(p, "output", rms_norm(p, "middle", gated))
        else:
            yield rms_norm(p, "output", linear(p, "middle", gated))


def window_qformer_formula(p, s, frames):
    for window in windows_of(frames, round(s.window_s * 50), fill=False):
        read = layer_norm(p, "input_norm", window) if s.input_norm else window
        queries = layer_norm(p, "qformer.layernorm", p["query"][0], 1e-12)
        yield from linear(p, "output", qformer_layers(p, "qformer.encoder", queries, read, s))


def global_qformer_formula(p, s, frames):
    for window in windows_of(frames, round(s.window_s * 50) if s.window_s else len(frames), fill=False):
        queries = layer_norm(p, "qformer.layernorm", p["query"][0], 1e-12)
        read = qformer_layers(p, "qformer.encoder", queries, window, s, s.cross_attention_every)
        yield from layer_norm(p, "output", linear(p, "linear", read))


def layer_qformer_formula(p, s, frames):
    for window in windows_of(frames, round(s.window_s * 50) if s.window_s else len(frames), fill=False):
        layers = window.chunk(len(p["query"]), -1)
        answers = [qformer_layers(p, "qformer", q, layer, s) for q, layer in zip(p["query"], layers, strict=True)]
        weights = torch.softmax(p["layer_logits"], -1)
        mixed = sum(weights[:, [number]] * answer for number, answer in enumerate(answers))
        yield from linear(p, "output", layer_norm(p, "norm", mixed))


def perceiver_formula(p, s, frames):
    for window in windows_of(frames, round(s.window_s * 50) if s.window_s else len(frames), fill=False):
        window, latents = linear(p, "input", window), p["query"][0]
        for number in range(s.num_layers):
            at = f"layers.{number}"
            normed = layer_norm(p, f"{at}.latent_norm", latents)
            read = torch.cat([layer_norm(p, f"{at}.frame_norm", window), normed])
            q, k, v = (
                linear(p, f"{at}.q_proj", normed),
                linear(p, f"{at}.k_proj", read),
                linear(p, f"{at}.v_proj", read),
            )
            latents = latents + linear(p, f"{at}.o_proj", attend(q, k, v, s.num_heads))
            inner = linear(p, f"{at}.feed_forward.1", layer_norm(p, f"{at}.feed_forward.0", latents))
            inner = gelu(inner) if s.activation == "gelu" else inner.clamp(min=0)
            latents = latents + linear(p, f"{at}.feed_forward.3", inner)
        yield from linear(p, "output", layer_norm(p, "norm", latents))


FORMULAS = {
    "conv": conv_formula, "global_qformer": global_qformer_formula, "layer_qformer": layer_qformer_formula,
    "mlp": mlp_formula, "perceiver": perceiver_formula, "pool_linear": pool_linear_formula, "swiglu": swiglu_formula,
    "window_qformer": window_qformer_formula,
}  # fmt: skip
VARIANTS = [
    *LISTED,
    {**CONNECTOR_BLOCKS["mlp"], "activation": "relu", "hidden_size": None},
    {**CONNECTOR_BLOCKS["mlp"], "join": "mean", "norm": "layer_norm"},
    {**CONNECTOR_BLOCKS["pool_linear"], "norm": "layer_norm", "divide_by": 1.0},
    {**CONNECTOR_BLOCKS["swiglu"], "norm": "out"},
    {**CONNECTOR_BLOCKS["window_qformer"], "input_norm": False, "num_layers": 2},
    {**CONNECTOR_BLOCKS["global_qformer"], "window_s": 0.12},
    {**CONNECTOR_BLOCKS["layer_qformer"], "window_s": 0.12},
    {**CONNECTOR_BLOCKS["perceiver"], "window_s": 0.12, "activation": "relu"},
]


@pytest.mark.parametrize("block", VARIANTS, ids=lambda block: "-".join(map(str, block.values())))
def test_vectors_and_gradients_are_those_of_the_formula(block):
    module = make(block)
    settings = CONNECTORS[block["name"]].Settings.model_validate({k: v for k, v in block.items() if k != "name"})
    frames = torch.randn(1, 11, 16, requires_grad=True)
    parameters = dict(module.named_parameters())
    ours = module(frames, whole(frames))[0][0]
    theirs = torch.stack(list(FORMULAS[block["name"]](parameters, settings, frames[0])))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    towards = torch.randn(ours.shape)
    wanted = [frames, *parameters.values()]
    gradients = [torch.autograd.grad((one * towards).sum(), wanted) for one in (ours, theirs)]
    for name, gradient, expected in zip(["frames", *parameters], *gradients, strict=True):
        scale = max(1.0, float(expected.abs().max()))  # float32 sums in another order: relative to the largest
        torch.testing.assert_close(
            gradient, expected, atol=1e-5 * scale, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )


# ---------------------------------------------------------------------------------------------------- the first step
def model_of(block):
    torch.manual_seed(0)
    llm = {"config": {**LLM, **LLMS["qwen3"], "initializer_range": 0.02}}
    return build(encoder={"config": ENCODER}, connector=block, llm=llm, tokenizer=tokenizer()).model


LINEAR_AND_NORMS_AT_THE_END = [MLP, CONNECTOR_BLOCKS["global_qformer"], {**CONNECTOR_BLOCKS["swiglu"], "norm": "out"}]


@pytest.mark.parametrize("block", LINEAR_AND_NORMS_AT_THE_END, ids=name_of)
def test_only_the_last_layer_is_scaled_and_nothing_if_the_published_start_is_asked_for(block):
    scaled, published = model_of(block).model.connector, model_of({**block, "init": "published"})
    ratios = {}
    for name, parameter in published.model.connector.named_parameters():
        other = scaled.get_parameter(name)
        if name.startswith("output."):
            ratios[name] = (other[parameter != 0] / parameter[parameter != 0]).unique()
        else:
            torch.testing.assert_close(other, parameter, rtol=0, atol=0)
    factors = torch.cat(list(ratios.values()))
    torch.testing.assert_close(factors, factors[:1].expand_as(factors))  # one factor for the whole layer
    assert abs(math.log(factors[0].item())) > 0.1
    before = published.model.connector.output.weight.clone()
    assert match_connector_scale(published) == 1.0
    torch.testing.assert_close(published.model.connector.output.weight, before, rtol=0, atol=0)


def test_norms_start_as_published():
    ultravox = make_published({"name": "swiglu", "norm": "out", "hidden_size": 8})
    assert torch.cat([ultravox.input_norm.weight, ultravox.output.weight]).tolist() == pytest.approx(
        [0.4] * (8 * 16 + 24)
    )
    slam = make_published({**CONNECTOR_BLOCKS["global_qformer"], "num_queries": 500, "query_std": 1.0})
    assert slam.query.std().item() == pytest.approx(1.0, abs=0.05)
    assert slam.output.weight.tolist() == [1.0] * 24
    assert slam.output.eps == 1e-5


def make_published(block):
    torch.manual_seed(0)
    return build_connector(check_connector({**block, "init": "published"}), dim_in=16, dim_out=24, frame_rate_hz=50.0)


# ------------------------------------------------------------------------------------------------------ what is refused
def test_a_layer_qformer_needs_several_layers_of_one_width():
    block = check_connector(CONNECTOR_BLOCKS["layer_qformer"])
    for sections, cause in (
        ((16,), "one is heard; name several under `encoder.taps`"),
        ((8, 6, 2), "these have 8, 6, 2"),
    ):
        with pytest.raises(ValueError, match=f"connector.name is layer_qformer, which reads .*{cause}"):
            build_connector(block, dim_in=16, dim_out=24, frame_rate_hz=50.0, sections=sections)
    with pytest.raises(ValidationError, match="mixes layers itself; leave it out"):
        check_connector({"name": "layer_qformer", "mix_layers": True})


def test_widths_that_cannot_be_shared_are_refused():
    with pytest.raises(ValidationError, match="hidden_size=9 must be even"):
        check_connector({"name": "swiglu", "hidden_size": 9})
    with pytest.raises(ValidationError, match=r"hidden_size=100 must be a multiple of num_heads=12"):
        check_connector({"name": "perceiver", "hidden_size": 100})


def test_each_layer_is_read_by_queries_of_its_own():
    module = make(CONNECTOR_BLOCKS["layer_qformer"])
    frames = torch.randn(1, 6, 16)
    with torch.no_grad():
        module.layer_logits[:, 0] = -1e9  # the second layer alone
        before = module(frames, whole(frames))[0]
        frames[..., :8] += 1.0
        module.query[0] += 1.0
        torch.testing.assert_close(module(frames, whole(frames))[0], before, rtol=0, atol=0)
        module.query[1] += 1.0
        assert not torch.allclose(module(frames, whole(frames))[0], before)


def test_weights_of_layers_are_even_at_the_start():
    made = make_layers()
    assert F.softmax(made.layer_logits, -1).flatten().tolist() == [0.5] * (2 * made.query.shape[1])


def make_layers():
    block = check_connector(CONNECTOR_BLOCKS["layer_qformer"])
    return build_connector(block, dim_in=16, dim_out=24, frame_rate_hz=50.0, sections=(8, 8))
