"""Native classes load native folders and give our logits; what does not match is refused with the reason."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import ENCODER, LLM, LLMS, MLP, QFORMER, RATE, tiny, tokenizer, tones, unsettle
from transformers import (
    AudioFlamingo3EncoderConfig,
    AudioFlamingo3ForConditionalGeneration,
    AutoProcessor,
    AutoTokenizer,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Encoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiollm.conversation import AudioPart, Message, TextPart
from audiollm.export.folder import export
from audiollm.export.formats import FORMATS, UNLIKE, find_format
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.connectors import CONNECTORS, ConnectorSettings
from audiollm.models.connectors.mlp import stack_frames
from audiollm.models.encoders import ENCODERS
from audiollm.models.encoders.base import WaveformEncoder
from audiollm.models.freezing import add_lora, part_of
from audiollm.models.parts import build

TOWER = {
    "num_mel_bins": 80, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_source_positions": 50, "initializer_range": 0.2,
}  # fmt: skip
PROJECTOR = {"name": "mlp", "stack": 1, "hidden_size": LLM["hidden_size"]}
CLIPS = tones(3, seconds=(0.3, 0.9)) + tones(1, seconds=(1.3, 1.5))
QUESTIONS = ["what do you hear?", "a dog or a bell?", "yes?", "which comes first?"]


def test_every_format_has_its_name():
    assert all(find_format(name) is FORMATS[name] and FORMATS[name].name == name for name in FORMATS)
    assert not set(FORMATS) & set(UNLIKE)


class PaddedTower(WaveformEncoder, AudioFlamingo3Encoder):
    """Audio Flamingo 3's own tower behind its own front end, window by window, as an encoder of ours."""

    config_class = AudioFlamingo3EncoderConfig

    @classmethod
    def stride(cls, config):
        return 640

    @classmethod
    def num_frames(cls, config, num_samples):
        return ((-(-num_samples // 160) - 1) // 2 + 1 - 2) // 2 + 1

    def forward(self, input_values, input_values_mask):
        window = self.config.max_source_positions * 320
        extractor = WhisperFeatureExtractor(feature_size=self.config.num_mel_bins, chunk_length=window // RATE)
        heard = []
        for wave, length in zip(input_values, input_values_mask.sum(-1).tolist(), strict=True):
            chunks = [wave[start : min(start + window, length)].numpy() for start in range(0, length, window)]
            made = extractor(chunks, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
            heard_by = AudioFlamingo3Encoder.forward(self, made["input_features"], made["attention_mask"])
            frames = heard_by.last_hidden_state
            counts = [self.num_frames(None, len(chunk)) for chunk in chunks]
            heard.append(torch.cat([part[:count] for part, count in zip(frames, counts, strict=True)]))
        mask = torch.arange(max(map(len, heard)))[None] < torch.tensor([len(one) for one in heard])[:, None]
        return torch.nn.utils.rnn.pad_sequence(heard, batch_first=True), mask


@pytest.fixture(scope="module")
def flamingo():
    """A model of Audio Flamingo 3's parts, with LoRA and tied embeddings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "audioflamingo3_encoder", PaddedTower)
        yield build_flamingo()


def build_flamingo():
    torch.manual_seed(0)
    built = build(
        encoder={"name": "audioflamingo3_encoder", "config": TOWER},
        connector=PROJECTOR,
        llm={"config": {**LLM, **LLMS["qwen2"], "vocab_size": 320, "tie_word_embeddings": True}},
        tokenizer=tokenizer(),
        system_prompt='say "what" you hear',
    )
    unsettle(built.model.model.audio_tower)
    add_lora(built.model, r=2, alpha=4)
    for name, parameter in built.model.named_parameters():
        if part_of(name) == "lora":
            parameter.data.normal_(0, 0.05)
    return built


@torch.no_grad()
def test_an_audio_flamingo_3_folder_gives_our_logits_in_the_native_class(flamingo, tmp_path):
    save_checkpoint(flamingo.model, flamingo.processor, tmp_path / "checkpoint", trained={"connector", "lora"})
    folder = export(tmp_path / "checkpoint", tmp_path / "native", format="audioflamingo3")
    prompts = [
        ((Message("user", (AudioPart((clip, RATE)), TextPart(question))),), [clip])
        for clip, question in zip(CLIPS, QUESTIONS, strict=True)
    ]
    ours = flamingo.processor.collate_prompts(prompts)
    processor = AutoProcessor.from_pretrained(folder)
    native = AudioFlamingo3ForConditionalGeneration.from_pretrained(folder).eval()
    theirs = processor.apply_chat_template(
        [
            [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": question}]}]
            for clip, question in zip(CLIPS, QUESTIONS, strict=True)
        ],
        add_generation_prompt=True, tokenize=True, return_dict=True,
    )  # fmt: skip
    assert torch.equal(theirs["input_ids"], ours["input_ids"])
    expected, found = flamingo.model(**ours).logits, native(**theirs).logits
    real = ours["attention_mask"].bool()
    largest = float(expected.abs().max())  # the tower hears all windows at once there, which rounds otherwise
    torch.testing.assert_close(found[real] / largest, expected[real] / largest, atol=1e-5, rtol=0)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(native.generate(**theirs, **options), flamingo.model.generate(**ours, **options))
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "audioflamingo3" and "auto_map" not in config and not list(folder.glob("*.py"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"connector": {**PROJECTOR, "stack": 2}}, "its connector has stack=2, and stack=1 is needed"),
        ({"connector": {**PROJECTOR, "hidden_size": 16}}, "its connector has hidden_size=16, and hidden_size=32"),
        ({"connector": QFORMER}, "its connector has name=window_qformer, and name=mlp is needed"),
        ({"llm": "llama"}, "its language model is llama, and qwen2 is needed"),
        ({"vocab_size": 298}, "the language model embeds 298 tokens"),
        ({"listening": {"taps": [1]}}, "its encoder is listened to by settings of our own (listening)"),
        ({"hop_length": 320}, "its encoder is listened to by settings of our own (hop_length)"),
    ],
)
def test_a_model_that_differs_is_refused_with_what_differs(flamingo, change, reason):
    config = copy.deepcopy(flamingo.model.config)
    config.connector_config = change.get("connector", config.connector_config)
    config.text_config.model_type = change.get("llm", "qwen2")
    config.text_config.vocab_size = change.get("vocab_size", 320)
    for name in {"hop_length", "listening"} & set(change):
        setattr(config.audio_config, name, change[name])
    assert reason in FORMATS["audioflamingo3"].why_not(config)


def test_a_whisper_is_no_tower_of_audio_flamingo_3_and_nothing_is_written(tmp_path):
    built = tiny("qwen2", MLP)
    save_checkpoint(built.model, built.processor, tmp_path / "checkpoint", trained={"connector"})
    with pytest.raises(ValueError, match=r"--format audioflamingo3: .* its encoder is whisper") as error:
        export(tmp_path / "checkpoint", tmp_path / "native", format="audioflamingo3")
    assert "\n" not in str(error.value) and not list(tmp_path.glob("native*"))


class Gated(torch.nn.Module):
    """Ultravox's projector, as a connector of ours: the gate is the second half of what the first layer gives."""

    class Settings(ConnectorSettings):
        stack: int = 8
        hidden_size: int = 48
        norm: str = "mid"

    def __init__(self, settings, sizes):
        super().__init__()
        self.settings, width = settings, sizes.dim_in * settings.stack
        self.ln_pre = torch.nn.RMSNorm(width, eps=1e-6)
        self.first = torch.nn.Linear(width, settings.hidden_size, bias=False)
        self.output = torch.nn.Linear(settings.hidden_size // 2, sizes.dim_out, bias=False)
        size = {"mid": settings.hidden_size // 2, "post": sizes.dim_out}[settings.norm]
        self.ln = torch.nn.RMSNorm(size, eps=1e-6)

    @staticmethod
    def num_tokens(settings, num_frames, frame_rate_hz):
        return -(-num_frames // settings.stack)

    def forward(self, frames_NTC, mask_NT):
        stacked = stack_frames(frames_NTC * mask_NT[..., None], self.settings.stack)
        value, gate = self.first(self.ln_pre(stacked)).chunk(2, -1)
        gated = torch.nn.functional.silu(gate) * value
        is_mid = self.settings.norm == "mid"
        out = self.output(self.ln(gated)) if is_mid else self.ln(self.output(gated))
        return out, mask_NT[:, :: self.settings.stack]


@pytest.mark.parametrize("norm", ["mid", "post"])
def test_an_ultravox_folder_has_the_names_and_shapes_that_its_readers_expect(norm, monkeypatch, tmp_path):
    monkeypatch.setitem(CONNECTORS, "swiglu", Gated)
    built = tiny("llama", {"name": "swiglu", "hidden_size": 48, "norm": norm, "init": "published"})
    save_checkpoint(built.model, built.processor, tmp_path / "checkpoint", trained={"connector"})
    folder = export(tmp_path / "checkpoint", tmp_path / "native", format="ultravox")
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    C, D, S, H = ENCODER["d_model"], LLM["hidden_size"], config["stack_factor"], config["hidden_size"]
    ln = {"mid": ("ln_mid", H // 2), "post": ("ln_post", D)}[norm]
    projector = {"ln_pre": (S * C,), "linear_1": (H, S * C), "linear_2": (D, H // 2), ln[0]: (ln[1],)}
    prefix = "multi_modal_projector."
    assert {n: tuple(t.shape) for n, t in tensors.items() if n.startswith(prefix)} == {
        f"{prefix}{name}.weight": shape for name, shape in projector.items()
    }
    assert torch.equal(tensors[f"{prefix}linear_1.weight"], built.model.model.connector.first.weight)
    whisper = {f"audio_tower.{name}" for name in WhisperEncoder(WhisperConfig(**ENCODER)).state_dict()}
    llm = {f"language_model.{name}" for name in LlamaForCausalLM(built.model.config.text_config).state_dict()}
    assert {name for name in tensors if not name.startswith(prefix)} == whisper | llm
    assert (config["projector_ln_mid"], config["projector_act"], S, H) == (norm == "mid", "swiglu", 8, 48)
    assert config["audio_config"]["model_type"] == "whisper" and config["text_config"]["model_type"] == "llama"
    assert AutoTokenizer.from_pretrained(folder).encode("<|audio|>", add_special_tokens=False) == [
        config["audio_token_index"]
    ]


@pytest.mark.parametrize(
    ("name", "words"), [("voxtral", "no biases"), ("audio_flamingo3", "did you mean 'audioflamingo3'")]
)
def test_an_architecture_that_nothing_matches_or_that_is_unknown_is_refused(name, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        export(tmp_path, tmp_path / "out", format=name)
    assert np.array([*tmp_path.iterdir()]).size == 0
