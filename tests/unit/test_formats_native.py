"""Native classes load native folders and give our logits; what does not match is refused with the reason."""

import json

import numpy as np
import pytest
import torch
from tiny import LLM, LLMS, MLP, QFORMER, RATE, tiny, tokenizer, tones, unsettle
from transformers import (
    AudioFlamingo3EncoderConfig,
    AudioFlamingo3ForConditionalGeneration,
    AutoProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Encoder

from audiollm.conversation import AudioPart, Message, TextPart
from audiollm.export.folder import export
from audiollm.export.formats import FORMATS, UNLIKE, find_format
from audiollm.models.checkpoint import save_checkpoint
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


@pytest.fixture
def flamingo(monkeypatch):
    """A model of Audio Flamingo 3's parts, with LoRA and tied embeddings."""
    monkeypatch.setitem(ENCODERS, "audioflamingo3_encoder", PaddedTower)
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
            parameter.data.normal_(0, 0.3)
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
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
    options = {"max_new_tokens": 8, "do_sample": False}
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
        ({"hop_length": 320}, "its encoder is listened to by settings of our own (hop_length)"),
    ],
)
def test_a_model_that_differs_is_refused_with_what_differs(flamingo, change, reason):
    config = flamingo.model.config
    config.connector_config = change.get("connector", config.connector_config)
    config.text_config.model_type = change.get("llm", "qwen2")
    config.text_config.vocab_size = change.get("vocab_size", 320)
    if "hop_length" in change:
        config.audio_config.hop_length = change["hop_length"]
    assert reason in FORMATS["audioflamingo3"].why_not(config)


def test_a_whisper_is_no_tower_of_audio_flamingo_3_and_nothing_is_written(tmp_path):
    built = tiny("qwen2", MLP)
    save_checkpoint(built.model, built.processor, tmp_path / "checkpoint", trained={"connector"})
    with pytest.raises(ValueError, match=r"--format audioflamingo3: .* its encoder is whisper") as error:
        export(tmp_path / "checkpoint", tmp_path / "native", format="audioflamingo3")
    assert "\n" not in str(error.value) and not list(tmp_path.glob("native*"))


@pytest.mark.parametrize(
    ("name", "words"), [("voxtral", "no biases"), ("audio_flamingo3", "did you mean 'audioflamingo3'")]
)
def test_an_architecture_that_nothing_matches_or_that_is_unknown_is_refused(name, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        export(tmp_path, tmp_path / "out", format=name)
    assert np.array([*tmp_path.iterdir()]).size == 0
