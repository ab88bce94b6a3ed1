"""Native classes load native folders and give our logits; what does not match is refused with the reason."""

import copy
import json

import pytest
import torch
from natives import save
from safetensors.torch import load_file
from tiny import ENCODER, LLM, LLMS, MLP, QFORMER, RATE, tiny, tokenizer, tones, unsettle
from transformers import AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer, LlamaForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiollm.conversation import AudioPart, Message, TextPart
from audiollm.export.folder import export
from audiollm.export.formats import FORMATS, UNLIKE, find_format
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import add_lora, part_of
from audiollm.models.native.loading import load_native
from audiollm.models.parts import build

FLAMINGO = {
    "num_mel_bins": 80, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_source_positions": 50, "initializer_range": 0.2,
}  # fmt: skip
QWEN2 = {
    "num_mel_bins": 80, "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "max_source_positions": 50, "initializer_range": 0.2,
}  # fmt: skip
PROJECTOR = {"name": "mlp", "stack": 1, "hidden_size": None}
PARTS = {
    "audioflamingo3": ("audioflamingo3_encoder", FLAMINGO, PROJECTOR),
    "qwen2_audio": ("qwen2_audio_encoder", QWEN2, {"name": "pool_linear", "pool": 1}),
}
SHORT, LONG = tones(3, seconds=(0.3, 0.9)), tones(1, seconds=(1.3, 1.5))  # a window of these towers is one second
CLIPS = {"audioflamingo3": SHORT + LONG, "qwen2_audio": SHORT}
QUESTIONS = ["what do you hear?", "a dog or a bell?", "yes?", "which comes first?"]


def native_parts(name: str):
    """A model of an architecture's parts, with LoRA, tied embeddings and a system prompt."""
    torch.manual_seed(0)
    encoder, sizes, connector = PARTS[name]
    built = build(
        encoder={"name": encoder, "config": sizes},
        connector=connector,
        llm={"config": {**LLM, **LLMS["qwen2"], "vocab_size": 320, "tie_word_embeddings": True}},
        tokenizer=tokenizer(),
        system_prompt='say "what" you hear',
    )
    unsettle(built.model.model.audio_tower)
    add_lora(built.model, r=2, alpha=4)
    for parameter_name, parameter in built.model.named_parameters():
        if part_of(parameter_name) == "lora":
            parameter.data.normal_(0, 0.05)
    return built


def test_every_format_has_its_name():
    assert all(find_format(name) is FORMATS[name] and FORMATS[name].name == name for name in FORMATS)
    assert not set(FORMATS) & set(UNLIKE)


@torch.no_grad()
@pytest.mark.parametrize("name", PARTS)
def test_a_native_folder_gives_our_logits_in_the_native_class(name, tmp_path):
    built, clips = native_parts(name), CLIPS[name]
    save_checkpoint(built.model, built.processor, tmp_path / "checkpoint", trained={"connector", "lora"})
    folder = export(tmp_path / "checkpoint", tmp_path / "native", format=name)
    asked = list(zip(clips, QUESTIONS[: len(clips)], strict=True))
    ours = built.processor.collate_prompts(
        [((Message("user", (AudioPart((clip, RATE)), TextPart(question))),), [clip]) for clip, question in asked]
    )
    processor = AutoProcessor.from_pretrained(folder)
    native = FORMATS[name].model_class.from_pretrained(folder).eval()
    theirs = processor.apply_chat_template(
        [
            [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": question}]}]
            for clip, question in asked
        ],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )  # fmt: skip
    assert torch.equal(theirs["input_ids"], ours["input_ids"])
    expected, found = built.model(**ours).logits, native(**theirs).logits
    real = ours["attention_mask"].bool()
    largest = float(expected.abs().max())  # with LoRA in the weights, and windows padded, sums are rounded otherwise
    torch.testing.assert_close(found[real] / largest, expected[real] / largest, atol=1e-5, rtol=0)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(native.generate(**theirs, **options), built.model.generate(**ours, **options))
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == name and "auto_map" not in config and not list(folder.glob("*.py"))


@pytest.fixture(scope="module")
def config():
    """The configuration of a model of Audio Flamingo 3's parts."""
    return native_parts("audioflamingo3").model.config


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"connector": {**PROJECTOR, "stack": 2}}, "its connector has stack=2, and stack=1 is needed"),
        ({"connector": {**PROJECTOR, "hidden_size": 16}}, "its connector has hidden_size=16, and hidden_size=32"),
        ({"connector": {**PROJECTOR, "activation": "relu"}}, "its connector has activation=relu, and activation=gelu"),
        ({"connector": {**PROJECTOR, "mix_layers": True}}, "its connector has mix_layers=True"),
        ({"connector": QFORMER}, "its connector has name=window_qformer, and name=mlp is needed"),
        ({"llm": "llama"}, "its language model is llama, and qwen2 is needed"),
        ({"vocab_size": 298}, "the language model embeds 298 tokens"),
        ({"listening": {"taps": [1]}}, "its encoder is listened to by settings of our own (listening)"),
        ({"hop_length": 320}, "its encoder is listened to by settings of our own (hop_length)"),
    ],
)
def test_a_model_that_differs_is_refused_with_what_differs(config, change, reason):
    config = copy.deepcopy(config)
    config.connector_config = {**config.connector_config, **change.get("connector", {})}
    config.text_config.model_type = change.get("llm", "qwen2")
    config.text_config.vocab_size = change.get("vocab_size", 320)
    for name in {"hop_length", "listening"} & set(change):
        setattr(config.audio_config, name, change[name])
    found = FORMATS["audioflamingo3"].why_not(config)
    assert found is None if reason is None else reason in found


def test_a_whisper_is_no_tower_of_audio_flamingo_3_and_nothing_is_written(tmp_path):
    built = tiny("qwen2", MLP)
    save_checkpoint(built.model, built.processor, tmp_path / "checkpoint", trained={"connector"})
    with pytest.raises(ValueError, match=r"--format audioflamingo3: .* its encoder is whisper") as error:
        export(tmp_path / "checkpoint", tmp_path / "native", format="audioflamingo3")
    assert "\n" not in str(error.value) and not list(tmp_path.glob("native*"))


@pytest.mark.parametrize("norm", ["mid", "out"])
def test_an_ultravox_folder_has_the_names_and_shapes_that_its_readers_expect(norm, tmp_path):
    built = tiny("llama", {"name": "swiglu", "hidden_size": 48, "norm": norm})
    save_checkpoint(built.model, built.processor, tmp_path / "checkpoint", trained={"connector"})
    folder = export(tmp_path / "checkpoint", tmp_path / "native", format="ultravox")
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    C, D, S, H = ENCODER["d_model"], LLM["hidden_size"], config["stack_factor"], config["hidden_size"]
    ln = {"mid": ("ln_mid", H // 2), "out": ("ln_post", D)}[norm]
    projector = {"ln_pre": (S * C,), "linear_1": (H, S * C), "linear_2": (D, H // 2), ln[0]: (ln[1],)}
    prefix = "multi_modal_projector."
    assert {n: tuple(t.shape) for n, t in tensors.items() if n.startswith(prefix)} == {
        f"{prefix}{name}.weight": shape for name, shape in projector.items()
    }
    assert torch.equal(tensors[f"{prefix}linear_1.weight"], built.model.model.connector.input.weight)
    whisper = {f"audio_tower.{name}" for name in WhisperEncoder(WhisperConfig(**ENCODER)).state_dict()}
    llm = {f"language_model.{name}" for name in LlamaForCausalLM(built.model.config.text_config).state_dict()}
    assert {name for name in tensors if not name.startswith(prefix)} == whisper | llm
    assert (config["projector_ln_mid"], config["projector_act"], S, H) == (norm == "mid", "swiglu", 8, 48)
    assert config["audio_config"]["model_type"] == "whisper" and config["text_config"]["model_type"] == "llama"
    placeholder = AutoTokenizer.from_pretrained(folder).encode("<|audio|>", add_special_tokens=False)
    assert placeholder == [config["audio_token_index"]]


@pytest.mark.parametrize(
    ("name", "words"), [("voxtral", "no biases"), ("audio_flamingo3", "did you mean 'audioflamingo3'")]
)
def test_an_architecture_that_nothing_matches_or_that_is_unknown_is_refused(name, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        export(tmp_path, tmp_path / "out", format=name)
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_a_model_that_transformers_has_itself_is_exported_as_it_came_with_what_was_trained(tmp_path):
    save("qwen2_audio", tmp_path / "public")
    built = load_native(tmp_path / "public")
    add_lora(built.model, r=2, alpha=4)
    for name, parameter in built.model.named_parameters():
        if part_of(name) == "lora":
            parameter.data.normal_(0, 0.05)
    save_checkpoint(built.model, built.processor, tmp_path / "checkpoint", trained={"lora"})
    with pytest.raises(ValueError, match="leave --format out"):
        export(tmp_path / "checkpoint", tmp_path / "out", format="qwen2_audio")
    folder = export(tmp_path / "checkpoint", tmp_path / "out")
    public, found = (AutoModelForMultimodalLM.from_pretrained(tmp_path / one).eval() for one in ("public", "out"))
    ids = torch.arange(3, 12)[None]
    expected = built.model.native(input_ids=ids).logits
    torch.testing.assert_close(found(input_ids=ids).logits, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert not torch.allclose(public(input_ids=ids).logits, expected, atol=1e-3)
    assert AutoProcessor.from_pretrained(folder).tokenizer.get_vocab() == built.processor.tokenizer.get_vocab()
    card = (folder / "README.md").read_text()
    assert "qwen2_audio's own encoder" in card and "adapters of the language model" in card
