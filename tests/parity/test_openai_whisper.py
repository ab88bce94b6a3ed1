"""Checkpoints of OpenAI's `whisper` package, against an encoder written in that package's layout and names."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny import LLM, MLP, RATE, tokenizer, tone, unsettle
from torch import nn
from transformers import WhisperConfig

from audiollm.models.checkpoint import load_small_checkpoint, save_checkpoint
from audiollm.models.encoders.openai_whisper import OpenAIWhisperEncoder
from audiollm.models.encoders.whisper import WhisperAudioEncoder, log_mel
from audiollm.models.parts import build, build_encoder, encoder_on_paper

DIMS = {
    "n_mels": 80, "n_audio_ctx": 50, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2, "n_vocab": 64,
    "n_text_ctx": 8, "n_text_state": 24, "n_text_head": 3, "n_text_layer": 1,
}  # fmt: skip


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn, self.attn_ln, self.mlp_ln = Attention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class AudioEncoder(nn.Module):
    def __init__(self, dims):
        super().__init__()
        width = dims["n_audio_state"]
        self.conv1 = nn.Conv1d(dims["n_mels"], width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.randn(dims["n_audio_ctx"], width))
        self.blocks = nn.ModuleList(Block(width, dims["n_audio_head"]) for _ in range(dims["n_audio_layer"]))
        self.ln_post = nn.LayerNorm(width)

    def forward(self, mel):
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2) + self.positional_embedding
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class Whisper(nn.Module):
    """As much of the package's model as its checkpoints are made of."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dims = SimpleNamespace(**DIMS)
        self.encoder, self.decoder = AudioEncoder(DIMS), nn.Linear(2, 2)
        unsettle(self)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "tuned.pt"
    torch.save({"dims": DIMS, "model_state_dict": Whisper().half().state_dict()}, path)  # as the published files are
    return path


@pytest.fixture
def package(monkeypatch):
    """The `whisper` package, with one small model."""
    loaded = []

    def load_model(name, device):
        assert device == "cpu"
        loaded.append(name)
        return Whisper()

    fake = SimpleNamespace(available_models=lambda: ["tiny.en", "small"], load_model=load_model)
    monkeypatch.setitem(sys.modules, "whisper", fake)
    return loaded


def heard(encoder, seconds=1.0):
    values = torch.from_numpy(tone(500, seconds))[None]
    with torch.no_grad():
        return encoder(values, torch.ones_like(values, dtype=torch.bool))[0]


@torch.no_grad()
@pytest.mark.parametrize("half", [True, False])
def test_a_checkpoint_of_the_package_is_the_same_encoder(checkpoint, package, half):
    spec = {"name": "openai_whisper", "checkpoint": str(checkpoint) if half else "small"}
    tower, base = build_encoder(spec, torch.float32)
    theirs = Whisper().half().float() if half else Whisper()
    mel = log_mel(torch.from_numpy(tone(500, 1.0))[None], torch.tensor([RATE]), RATE, 80)
    torch.testing.assert_close(heard(tower), theirs.encoder(mel), atol=1e-4, rtol=0)
    assert isinstance(tower, WhisperAudioEncoder) and base["checkpoint"] == spec["checkpoint"]
    assert package == ([] if half else ["small"])


def test_its_config_is_whispers_own(checkpoint):
    config = encoder_on_paper({"name": "openai_whisper", "checkpoint": str(checkpoint)}).to_dict()
    twin = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, num_mel_bins=80, vocab_size=64,
        max_source_positions=50, max_target_positions=8, decoder_layers=1, decoder_attention_heads=3,
        decoder_ffn_dim=96,
    ).to_dict()  # fmt: skip
    assert config == twin | {"encoder_class": "openai_whisper"}
    assert OpenAIWhisperEncoder.num_frames(config, 16_001) == 51


@pytest.mark.parametrize("trained", [set(), {"encoder"}])
def test_a_model_with_it_is_saved_and_loaded(checkpoint, tmp_path, trained):
    built = build(
        encoder={"name": "openai_whisper", "checkpoint": str(checkpoint), "taps": [1]}, connector=MLP,
        llm={"config": {**LLM, "model_type": "qwen3"}}, tokenizer=tokenizer(),
    )  # fmt: skip
    save_checkpoint(built.model, built.processor, tmp_path / "saved", trained=trained)
    if trained:
        checkpoint.unlink()
    again = load_small_checkpoint(tmp_path / "saved")
    assert torch.equal(heard(again.model.audio_tower, 2.5), heard(built.model.model.audio_tower, 2.5))


class Trap:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_what_cannot_be_had_is_told_with_the_way_out(tmp_path, package, monkeypatch):
    def refused(checkpoint, **more):
        with pytest.raises(ValueError) as error:
            build_encoder({"name": "openai_whisper", "checkpoint": str(checkpoint), **more}, torch.float32)
        return str(error.value)

    assert "known: tiny.en, small" in refused("smal")
    assert "is for the hub" in refused("small", revision="abc")
    assert "there is no such file" in refused(tmp_path / "gone.pt")
    for number, content in enumerate([{"model": {}}, [1], {"dims": DIMS, "model_state_dict": Trap(tmp_path / "ran")}]):
        torch.save(content, tmp_path / f"{number}.pt")
        assert "is not in the whisper package's format" in refused(tmp_path / f"{number}.pt")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "text.pt").write_text("no weights")
    assert "is not in the whisper package's format" in refused(tmp_path / "text.pt")
    monkeypatch.setitem(sys.modules, "whisper", None)
    assert "pip install 'audiollm[openai-whisper]', or give a .pt file" in refused("small")
