"""Our connectors, held against the same parts of models that transformers has: vectors, gradients, lengths."""

import pytest
import torch
from tiny import CONNECTOR_BLOCKS, unsettle
from torch import nn
from transformers import (
    AudioFlamingo3Config,
    BertConfig,
    GraniteSpeechConfig,
    IdeficsConfig,
    Qwen2AudioConfig,
    Qwen2AudioEncoder,
)
from transformers.models.audioflamingo3.modeling_audioflamingo3 import (
    AudioFlamingo3Encoder,
    AudioFlamingo3MultiModalProjector,
)
from transformers.models.bert.modeling_bert import BertEncoder
from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechEncoderProjector
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioMultiModalProjector

from audiollm.models.connectors import build_connector, check_connector
from audiollm.models.connectors.table import PUBLISHED, num_tokens

TOWER = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "num_mel_bins": 8,
    "max_source_positions": 25,
}  # fmt: skip
TEXT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}


def make(block, sections=(16,)):
    torch.manual_seed(0)
    return build_connector(
        check_connector(block), dim_in=sum(sections), dim_out=24, frame_rate_hz=50.0, sections=sections
    ).eval()


def whole(frames_NTC):
    return torch.ones(frames_NTC.shape[:2], dtype=torch.bool)


def take(ours, theirs):
    """Give our module the weights of theirs; `theirs`: our prefix -> their module or parameter."""
    weights = {}
    for name, part in theirs.items():
        tensors = part.state_dict().items() if isinstance(part, nn.Module) else [("", part)]
        weights |= {f"{name}.{key}".strip("."): tensor.detach() for key, tensor in tensors}
    ours.load_state_dict(weights)


def assert_same(ours, theirs, frames):
    """Vectors, and the gradients of the frames, in float32 whose sums may go in another order."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    towards = torch.randn(ours.shape)
    gradients = [torch.autograd.grad((one * towards).sum(), frames)[0] for one in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_granite_speech():
    qformer = {
        "model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "encoder_hidden_size": 16, "cross_attention_frequency": 1,
    }  # fmt: skip
    theirs = unsettle(GraniteSpeechEncoderProjector(GraniteSpeechConfig(projector_config=qformer, text_config=TEXT)))
    sizes = {"hidden_size": 16, "num_heads": 2, "intermediate_size": 32}
    ours = make(PUBLISHED["Granite Speech"] | sizes)
    take(ours, {"query": theirs.query, "qformer": theirs.qformer, "output": theirs.linear})
    frames = torch.randn(2, 45, 16, requires_grad=True)  # whole windows: theirs reads what it fills up with as frames
    assert_same(ours(frames, whole(frames))[0], theirs.eval()(frames), frames)


def heard_by(tower, mel, **mask):
    """What the last layer of a tower gives, and what the tower gives."""
    found = []
    handle = tower.layers[-1].register_forward_hook(lambda _, __, output: found.append(output))
    end = tower(mel, **mask).last_hidden_state
    handle.remove()
    return found[0], end


def test_qwen2_audio():
    config = Qwen2AudioConfig(audio_config=TOWER, text_config=TEXT)
    tower, projector = unsettle(Qwen2AudioEncoder(config.audio_config)).eval(), Qwen2AudioMultiModalProjector(config)
    ours = make(PUBLISHED["Qwen2-Audio"])
    take(ours, {"norm": tower.layer_norm, "output": projector.linear})
    frames, end = heard_by(tower, torch.randn(2, 8, 50))
    assert_same(ours(frames, whole(frames))[0], projector(end), frames)
    for mel_frames in range(4, 3000):
        frames, tokens = tower._get_feat_extract_output_lengths(mel_frames)
        assert num_tokens(PUBLISHED["Qwen2-Audio"], frames) == max(1, tokens)


def test_audio_flamingo_3():
    config = AudioFlamingo3Config(audio_config=TOWER, text_config=TEXT)
    tower = unsettle(AudioFlamingo3Encoder(config.audio_config)).eval()
    projector = unsettle(AudioFlamingo3MultiModalProjector(config))
    ours = make(PUBLISHED["Audio Flamingo 3"])
    take(ours, {"norm": tower.layer_norm, "input": projector.linear_1, "output": projector.linear_2})
    mel_frames = torch.tensor([50, 37])
    frames, end = heard_by(tower, torch.randn(2, 8, 50), input_features_mask=torch.arange(50) < mel_frames[:, None])
    lengths, tokens = tower._get_feat_extract_output_lengths(mel_frames)
    vectors, kept = ours(frames, torch.arange(25) < lengths[:, None])
    assert kept.sum(-1).tolist() == tokens.tolist()
    theirs = projector(end)[torch.arange(end.shape[1]) < tokens[:, None]]
    assert_same(vectors[kept], theirs, frames)


def test_the_layers_that_desta_reads_with_a_bert():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(**sizes, is_decoder=True, add_cross_attention=True)
    config._attn_implementation = "eager"  # as DeSTA says; other implementations take a decoder for causal
    bert = unsettle(BertEncoder(config)).eval()
    ours = make(CONNECTOR_BLOCKS["layer_qformer"], sections=(16, 16))
    ours.qformer.load_state_dict({of_a_qformer(name): tensor for name, tensor in bert.state_dict().items()})
    frames = torch.randn(2, 9, 32, requires_grad=True)
    ours.layer_logits.data.normal_()
    answers = [
        bert(query.expand(2, -1, -1), encoder_hidden_states=layer).last_hidden_state
        for query, layer in zip(ours.query, frames.chunk(2, -1), strict=True)
    ]
    weights = ours.layer_logits.softmax(-1)
    theirs = ours.output(ours.norm(sum(weights[:, [n]] * answer for n, answer in enumerate(answers))))
    assert_same(ours(frames, whole(frames))[0], theirs, frames)


def of_a_qformer(name):
    """The name of a weight of BERT in a Q-Former."""
    if "attention" in name:
        return name.replace(".self.", ".attention.")
    return name.replace(".intermediate.", ".intermediate_query.").replace(".output.", ".output_query.")


@pytest.mark.parametrize("frames_in_clip", [1, 13])
def test_the_resampler_of_flamingo_as_idefics_has_it(frames_in_clip):
    theirs = IdeficsPerceiverResampler(
        IdeficsConfig(vision_config={"embed_dim": 16}), embed_dim=16, depth=2, n_heads=2, head_dim=8, n_latents=3
    )
    theirs = unsettle(theirs).eval()
    ours = make({**CONNECTOR_BLOCKS["perceiver"], "intermediate_size": 64, "activation": "relu"})
    parts = {
        "query": theirs.latents[None],
        "norm": theirs.layer_norm,
        "input": nn.Linear(16, 16),
        "output": ours.output,
    }
    nn.init.eye_(parts["input"].weight)
    nn.init.zeros_(parts["input"].bias)
    for number, (attention, feed_forward) in enumerate(theirs.blocks):
        at = f"layers.{number}"
        parts |= {
            f"{at}.frame_norm": attention.context_layer_norm, f"{at}.latent_norm": attention.latents_layer_norm,
            f"{at}.q_proj": attention.q_proj, f"{at}.k_proj": attention.k_proj, f"{at}.v_proj": attention.v_proj,
            f"{at}.o_proj": attention.output_proj, f"{at}.feed_forward.0": feed_forward.ln,
            f"{at}.feed_forward.1": feed_forward.fc, f"{at}.feed_forward.3": feed_forward.c_proj,
        }  # fmt: skip
    take(ours, parts)
    frames = torch.randn(2, frames_in_clip, 16, requires_grad=True)
    assert_same(ours(frames, whole(frames))[0], ours.output(theirs(frames)), frames)
