"""The whole model: a row's logits and answer are its own, and what is saved is what is loaded."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import ENCODER, LLM, LLMS, MLP, QFORMER, RATE, checksum, tiny, tokenizer, tone, tones
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    WhisperConfig,
    WhisperModel,
)

from audiollm.conversation import AudioPart, Message, TextPart
from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.encoders.whisper import WhisperAudioEncoder
from audiollm.models.freezing import add_lora, has_lora, merge_lora, part_of, select_trainable
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.parts import build, fingerprint
from audiollm.models.processing import AudioLLMProcessor
from audiollm.models.splice import splice

CLIPS = tones(6, seconds=(0.1, 1.7))
HEARD = [(0,), (), (1, 2), (3,), (), (4, 5)]
"""Which clips each prompt has: none, one, two."""
QUESTIONS = ["what do you hear?", "yes?", "which comes first, the high or the low one?", "no", "describe", "?"]


def prompts(which=range(6)):
    """(messages, waveforms) of several lengths, with no, one or two clips."""
    for index in which:
        waves = [CLIPS[number] for number in HEARD[index]]
        parts = (*(AudioPart((wave, RATE)) for wave in waves), TextPart(QUESTIONS[index]))
        yield (Message("user", parts),), waves


def inputs_of(processor, which=range(6)):
    return processor.collate_prompts(list(prompts(which)))


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits


@torch.no_grad()
def scores_of(model, inputs, steps=6, **options):
    """The logits from which each row's first tokens were chosen: [B, steps, V]."""
    options = {"min_new_tokens": steps, "max_new_tokens": steps, "do_sample": False} | options
    said = model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
    return torch.stack(said.logits, dim=1)


@torch.no_grad()
def answers_of(model, inputs, **options):
    """New ids of each row up to the end of its answer."""
    options = {"max_new_tokens": 12, "do_sample": False} | options
    new = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()
    ends = set(model.generation_config.eos_token_id)
    return [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in new]


def assert_same_logits(one, other, inputs):
    torch.testing.assert_close(logits_of(one, inputs), logits_of(other, inputs), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def built():
    return tiny()


@pytest.fixture
def adapted():
    """A model with LoRA that changes every logit."""
    built = tiny(tie_word_embeddings=True)
    add_lora(built.model, r=2, alpha=4)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in built.model.named_parameters():
        if part_of(name) == "lora":
            parameter.data.normal_(0, 0.3, generator=draw)
    return built


# ------------------------------------------------------------------------------------------------- forward and answers


def test_a_batch_of_prompts_has_the_logits_of_each_alone(built):
    together = logits_of(built.model, inputs_of(built.processor))
    for index in range(6):
        alone = logits_of(built.model, inputs_of(built.processor, [index]))[0]
        torch.testing.assert_close(together[index, -len(alone) :], alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("llm", LLMS)
def test_greedy_answers_of_a_batch_are_those_of_each_alone(llm):
    built = tiny(llm)
    inputs = inputs_of(built.processor)
    together, scores = answers_of(built.model, inputs), scores_of(built.model, inputs)
    for index in range(6):
        alone = inputs_of(built.processor, [index])
        assert answers_of(built.model, alone) == [together[index]]
        torch.testing.assert_close(scores[index], scores_of(built.model, alone)[0], atol=5e-4, rtol=1e-4)
    assert len({tuple(answer) for answer in together}) > 3  # the rows are told apart


def test_answers_depend_on_what_is_heard(built):
    inputs = inputs_of(built.processor, [2])
    other = {**inputs, "input_values": inputs["input_values"].flip(-1) * 2}
    assert not torch.allclose(logits_of(built.model, inputs)[:, -1], logits_of(built.model, other)[:, -1], atol=1e-2)


def test_cache_and_no_cache_agree(built):
    inputs = inputs_of(built.processor)
    assert answers_of(built.model, inputs, use_cache=True) == answers_of(built.model, inputs, use_cache=False)
    cached, anew = (scores_of(built.model, inputs, use_cache=use) for use in (True, False))
    torch.testing.assert_close(cached, anew, atol=5e-4, rtol=1e-4)


def test_sound_is_encoded_once_for_an_answer(built, monkeypatch):
    calls = []
    listen = WhisperAudioEncoder.forward
    monkeypatch.setattr(WhisperAudioEncoder, "forward", lambda *args: calls.append(1) or listen(*args))
    answers_of(built.model, inputs_of(built.processor), min_new_tokens=4)
    assert len(calls) == 1


def test_sampling_and_beam_search_run_and_follow_the_seed(built):
    inputs = inputs_of(built.processor)
    for options in ({"do_sample": True, "temperature": 2.0}, {"num_beams": 3}, {"num_beams": 2, "do_sample": True}):
        torch.manual_seed(3)
        first = answers_of(built.model, inputs, **options)
        torch.manual_seed(3)
        assert answers_of(built.model, inputs, **options) == first


def test_beams_of_a_row_with_several_clips_hear_them_in_their_order(built):
    inputs = inputs_of(built.processor)
    repeated = scores_of(built.model, inputs, do_sample=True, top_k=1, num_return_sequences=3)
    for number in range(3):
        torch.testing.assert_close(repeated[number::3], scores_of(built.model, inputs), atol=5e-4, rtol=1e-4)
    beams = answers_of(built.model, inputs, num_beams=3)
    assert beams == [answers_of(built.model, inputs_of(built.processor, [n]), num_beams=3)[0] for n in range(6)]


def test_the_placeholder_is_never_said(built):
    assert built.model.config.audio_token_id >= built.model.lm_head.out_features  # it has no logit
    padded = tiny(vocab_size=512)  # a vocabulary with room at its end, as many have: here it has one
    assert padded.model.config.audio_token_id < padded.model.lm_head.out_features
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": 50.0, "top_k": 0, "num_return_sequences": 100}
    said = answers_of(padded.model, inputs_of(padded.processor, [0]), max_new_tokens=40, **options)
    drawn = [token for answer in said for token in answer]
    assert len(set(drawn)) > 400 and padded.model.config.audio_token_id not in drawn


def test_the_placeholder_needs_no_embedding(built):
    assert built.model.get_input_embeddings().num_embeddings <= built.model.config.audio_token_id
    assert torch.isfinite(logits_of(built.model, inputs_of(built.processor))).all()


def test_a_mismatch_of_placeholders_and_vectors_tells_both_numbers(built):
    inputs = inputs_of(built.processor, [0])
    slots = int((inputs["input_ids"] == built.model.config.audio_token_id).sum())
    longer = torch.nn.functional.pad(inputs["input_values"], (0, 5 * 1600))
    vectors = built.model.config.num_audio_tokens(longer.shape[1])
    assert vectors != slots
    with pytest.raises(ValueError, match=f"prompt has {slots} audio slots, connector made {vectors} vectors"):
        built.model(**inputs | {"input_values": longer, "input_values_mask": torch.ones_like(longer).bool()})
    with pytest.raises(ValueError, match="placeholders but no input_values"):
        built.model(input_ids=inputs["input_ids"])


def test_vectors_take_the_places_of_placeholders_in_order():
    text = torch.arange(12.0).view(2, 3, 2)
    heard = torch.tensor([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]])
    spliced = splice(text, torch.tensor([[False, True, True], [True, False, False]]), heard)
    assert spliced.tolist() == [[[0, 1], [-1, -2], [-3, -4]], [[-5, -6], [8, 9], [10, 11]]]


def test_the_loss_is_a_sum_over_supervised_tokens_by_the_number_given(built):
    inputs = inputs_of(built.processor, [0, 2])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= built.model.lm_head.out_features, -100)
    logits = logits_of(built.model, inputs)[:, :-1].flatten(0, 1)
    total = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    supervised = int((labels[:, 1:] != -100).sum())
    torch.testing.assert_close(built.model(**inputs, labels=labels).loss, total / supervised)
    torch.testing.assert_close(built.model(**inputs, labels=labels, num_items_in_batch=7).loss, total / 7)
    nothing = built.model(**inputs, labels=torch.full_like(labels, -100)).loss
    assert nothing == 0 and nothing.requires_grad


# --------------------------------------------------------------------------------------------------- saving and loading


def test_a_small_checkpoint_has_the_same_logits_and_answers(built, tmp_path):
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved")
    processor = AudioLLMProcessor.from_pretrained(tmp_path / "saved")
    inputs = inputs_of(processor)
    assert checksum(loaded) == checksum(built.model)
    assert_same_logits(loaded, built.model, inputs)
    assert answers_of(loaded, inputs) == answers_of(built.model, inputs_of(built.processor))
    assert not loaded.training and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_folder_saved_by_transformers_has_the_same_logits(tied, tmp_path):
    built = tiny(connector=MLP, tie_word_embeddings=tied)
    built.model.save_pretrained(tmp_path)
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path)
    assert_same_logits(loaded, built.model, inputs_of(built.processor))
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("small", [True, False])
def test_the_auto_classes_load_both_kinds_of_folder(built, small, tmp_path):
    if small:
        save_checkpoint(built.model, built.processor, tmp_path)
    else:
        built.model.save_pretrained(tmp_path)
        built.processor.save_pretrained(tmp_path)
    model, processor = AutoModelForMultimodalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(model) is AudioLLMForConditionalGeneration and type(processor) is AudioLLMProcessor
    assert AutoConfig.from_pretrained(tmp_path).audio_token_id == processor.audio_token_id
    assert_same_logits(model, built.model, inputs_of(processor))


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_a_checkpoint_loads_in_the_type_that_is_asked_for(built, dtype, tmp_path):
    save_checkpoint(built.model, built.processor, tmp_path)
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert torch.isfinite(logits_of(loaded, inputs_of(built.processor))).all()
    for same in (None, "auto"):
        assert AudioLLMForConditionalGeneration.from_pretrained(tmp_path, dtype=same).dtype == torch.float32


def test_a_checkpoint_loads_with_the_attention_that_is_asked_for(built, tmp_path):
    save_checkpoint(built.model, built.processor, tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path, attn_implementation="eager")
    parts = (loaded.model.audio_tower, loaded.model.language_model)
    assert [part.config._attn_implementation for part in parts] == ["eager", "eager"]
    inputs = inputs_of(built.processor)
    told = inputs["attention_mask"].bool()  # what stands at padding is nobody's
    torch.testing.assert_close(logits_of(loaded, inputs)[told], logits_of(built.model, inputs)[told])


def test_a_checkpoint_loads_onto_one_device(built, tmp_path):
    save_checkpoint(built.model, built.processor, tmp_path)
    for device_map in ("cpu", "auto", {"": "cpu"}):
        loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path, device_map=device_map)
        assert loaded.device == torch.accelerator.current_accelerator() or loaded.device == torch.device("cpu")
    with pytest.raises(ValueError, match="splits the model"):
        AudioLLMForConditionalGeneration.from_pretrained(tmp_path, device_map={"model": "cpu", "lm_head": "meta"})


def test_an_interrupted_save_leaves_the_old_checkpoint(built, tmp_path, monkeypatch):
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    monkeypatch.setattr("audiollm.models.checkpoint.save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(built.model, built.processor, tmp_path / "saved")
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert checksum(loaded) == checksum(built.model)


def test_a_checkpoint_with_a_missing_tensor_names_it(built, tmp_path):
    save_checkpoint(built.model, built.processor, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.connector.query")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit its config\.json: model\.connector\.query"):
        AudioLLMForConditionalGeneration.from_pretrained(tmp_path)


# --------------------------------------------------------------------------------------------------------------- LoRA


def test_adapters_are_saved_and_loaded_beside_the_model(adapted, tmp_path):
    save_checkpoint(adapted.model, adapted.processor, tmp_path)
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path)
    assert has_lora(loaded)
    assert_same_logits(loaded, adapted.model, inputs_of(adapted.processor))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert not any("lora" in name or "base_layer" in name for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("tied", [True, False])
def test_plain_peft_loads_the_adapters_on_the_language_model(tied, tmp_path):
    built = tiny(tie_word_embeddings=tied)
    bare = AutoModelForCausalLM.from_config(built.model.config.text_config)
    bare.model.load_state_dict(built.model.model.language_model.state_dict())
    bare.lm_head.load_state_dict(built.model.lm_head.state_dict())
    bare.save_pretrained(tmp_path / "base")
    add_lora(built.model, r=3, alpha=9, target_modules=["q_proj", "up_proj"])
    for name, parameter in built.model.named_parameters():
        if part_of(name) == "lora":
            parameter.data.normal_(0, 0.3)
    save_checkpoint(built.model, built.processor, tmp_path / "ours")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    inputs = inputs_of(built.processor, [1])
    before = logits_of(base, inputs)
    theirs = PeftModel.from_pretrained(base, tmp_path / "ours" / "adapter")
    torch.testing.assert_close(logits_of(theirs, inputs), logits_of(built.model, inputs), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, logits_of(theirs, inputs), atol=1e-2)


def test_merged_adapters_have_the_same_logits(adapted):
    inputs = inputs_of(adapted.processor)
    before = logits_of(adapted.model, inputs)
    merge_lora(adapted.model)
    assert not has_lora(adapted.model)
    assert not any("lora" in name or "base_layer" in name for name in adapted.model.state_dict())
    torch.testing.assert_close(logits_of(adapted.model, inputs), before, atol=5e-4, rtol=1e-3)


def test_merged_adapters_are_saved_with_the_language_model(adapted, tmp_path):
    merge_lora(adapted.model)
    save_checkpoint(adapted.model, adapted.processor, tmp_path)
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path)
    assert not has_lora(loaded)
    assert_same_logits(loaded, adapted.model, inputs_of(adapted.processor))


def test_adapters_are_on_the_language_model_alone():
    model = tiny().model
    add_lora(model, r=2, alpha=4)
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapted) == 2 * 7  # two layers of four attention and three feed-forward projections
    assert all(name.startswith("model.language_model.layers.") for name in adapted)


def test_a_target_that_matches_nothing_is_told_with_the_layers():
    model = tiny().model
    with pytest.raises(ValueError, match=r"\['query_key_value'\] matches nothing.*down_proj.*k_proj.*q_proj.*v_proj"):
        add_lora(model, r=2, alpha=4, target_modules=["query_key_value"])
    assert not has_lora(model)


def test_a_second_set_of_adapters_is_refused(adapted):
    with pytest.raises(ValueError, match="has LoRA already; merge it first"):
        add_lora(adapted.model, r=2, alpha=4)


# ----------------------------------------------------------------------------------------------------- pretrained parts


@pytest.fixture
def bases(tmp_path):
    """A tiny Whisper and a tiny Qwen2 in folders, as they come from a hub."""
    torch.manual_seed(1)
    WhisperModel(WhisperConfig(**ENCODER)).save_pretrained(tmp_path / "whisper")
    words = tokenizer()
    sizes = {"vocab_size": len(words) + 20, "pad_token_id": 0, "eos_token_id": words.eos_token_id}
    config = AutoConfig.for_model(**LLM, **LLMS["qwen2"], **sizes, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "qwen")
    words.save_pretrained(tmp_path / "qwen")
    return {"encoder": str(tmp_path / "whisper"), "llm": str(tmp_path / "qwen")}


def change_a_tensor(folder, name):
    """Add a little to one tensor of a saved model."""
    tensors = load_file(f"{folder}/model.safetensors")
    tensors[name] = tensors[name] + 0.05
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})


def stored_names(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


def test_parts_are_put_together_by_the_names_of_their_folders(bases):
    model = AudioLLMForConditionalGeneration.from_parts(**bases, connector="mlp")
    encoder = WhisperModel.from_pretrained(bases["encoder"]).encoder
    language_model = AutoModelForCausalLM.from_pretrained(bases["llm"]).model
    assert checksum(model.model.audio_tower) == checksum(encoder)
    assert checksum(model.model.language_model) == checksum(language_model)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_an_untouched_base_is_stored_by_name_alone(bases, tmp_path):
    built = build(**bases, connector=MLP)
    save_checkpoint(built.model, built.processor, tmp_path / "saved", trained={"connector"})
    assert {part_of(name) for name in stored_names(tmp_path / "saved")} == {"connector"}
    connector = sum(p.numel() for p in built.model.model.connector.parameters())
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 4 * connector + 1000
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert checksum(loaded) == checksum(built.model)
    assert_same_logits(loaded, built.model, inputs_of(built.processor))


def test_what_an_earlier_stage_trained_stays_in_later_checkpoints(bases, tmp_path):
    built = build(**bases, connector=MLP)
    with torch.no_grad():
        built.model.model.audio_tower.conv1.weight.mul_(1.5)
    save_checkpoint(built.model, built.processor, tmp_path / "listen", trained={"encoder"})
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "listen")
    save_checkpoint(loaded, built.processor, tmp_path / "align", trained={"connector"})
    assert {part_of(name) for name in stored_names(tmp_path / "align")} == {"encoder", "connector"}
    assert checksum(AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "align")) == checksum(built.model)


@pytest.mark.parametrize(
    ("part", "name"), [("encoder", "encoder.layers.0.fc1.bias"), ("llm", "model.layers.1.mlp.up_proj.weight")]
)
def test_a_base_with_other_weights_is_refused_by_name(bases, part, name, tmp_path):
    built = build(**bases, connector=MLP)
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    change_a_tensor(bases[part], name)
    with pytest.raises(ValueError, match=f"{bases[part]} is not the model that this checkpoint was trained with"):
        AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved")


def test_an_output_layer_of_its_own_is_part_of_what_identifies_a_base(bases, tmp_path):
    config = AutoConfig.from_pretrained(bases["llm"], tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(config).save_pretrained(bases["llm"])
    built = build(**bases, connector=MLP)
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    assert_same_logits(
        AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved"), built.model, inputs_of(built.processor)
    )
    change_a_tensor(bases["llm"], "lm_head.weight")
    with pytest.raises(ValueError, match="is not the model that this checkpoint was trained with"):
        AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_on_named_bases_loads_in_half_precision(bases, dtype, tmp_path):
    built = build(**bases, connector=MLP)
    with torch.no_grad():  # smaller than float16 can hold
        built.model.model.language_model.layers[0].mlp.up_proj.weight[0] = 1e-9
        built.model.model.language_model.save_pretrained(bases["llm"])
    built = build(**bases, connector=MLP)
    save_checkpoint(built.model, built.processor, tmp_path / "saved")
    loaded = AudioLLMForConditionalGeneration.from_pretrained(tmp_path / "saved", dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}


def test_a_fingerprint_is_the_same_in_float32_and_bfloat16(bases):
    one, other = (build(**bases, connector=MLP, dtype=dtype).model for dtype in (torch.float32, torch.bfloat16))
    assert one.config.bases == other.config.bases
    assert fingerprint(one.model.audio_tower) != fingerprint(one.model.language_model)
    assert {p.dtype for p in other.model.connector.parameters()} == {torch.float32}  # it is trained


def test_a_checkpoint_that_is_no_encoder_is_refused(bases):
    with pytest.raises(ValueError, match=r"is a 'qwen2' model, not an encoder; known: .*whisper"):
        build(encoder=bases["llm"], llm=bases["llm"])
    with pytest.raises(ValueError, match="unknown encoder 'beats'"):
        build(encoder={"name": "beats", "config": {"d_model": 8}}, llm=bases["llm"])
    with pytest.raises(ValueError, match="unknown connector 'linear'"):
        build(**bases, connector="linear")
    with pytest.raises(ValueError, match=r"model\.llm needs `checkpoint`, or `config` and `tokenizer"):
        build(encoder=bases["encoder"], llm={"config": LLMS["llama"]})


# ------------------------------------------------------------------------------------------------------------- freezing


def train(model, inputs, steps=3):
    """Some steps of the parts that are set to train."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= model.lm_head.out_features, -100)
    for _ in range(steps):
        model.train()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("parts", [["connector"], ["lora"], ["encoder", "connector"], ["connector", "lora"], ["llm"]])
def test_frozen_parts_keep_their_weights_and_stay_in_evaluation_mode(parts):
    built = tiny(connector={**QFORMER, "dropout": 0.1}, attention_dropout=0.1)
    model = built.model
    add_lora(model, r=2, alpha=4, dropout=0.1)
    counts = select_trainable(model, parts)
    assert list(counts) == parts and all(counts.values())
    before = {part: checksum(model, lambda name, part=part: part_of(name) == part) for part in PARTS}
    train(model, inputs_of(built.processor))
    after = {part: checksum(model, lambda name, part=part: part_of(name) == part) for part in PARTS}
    assert {part for part in PARTS if before[part] != after[part]} == set(parts)
    assert model.model.audio_tower.training == ("encoder" in parts)
    assert model.model.connector.qformer.training == ("connector" in parts)
    assert model.model.language_model.training == bool({"lora", "llm"} & set(parts))
    frozen = [p for name, p in model.named_parameters() if part_of(name) not in parts]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)


PARTS = ("encoder", "connector", "lora", "llm")


def test_a_frozen_language_model_computes_its_activations_again_and_drops_nothing():
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        built = tiny(attention_dropout=0.5)
        model = built.model
        select_trainable(model, ["connector"])
        if again:
            model.activation_checkpointing_enable()
        model.train()
        runs: list[int] = []
        model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        inputs = inputs_of(built.processor)
        loss = model(**inputs, labels=inputs["input_ids"].clamp(max=99)).loss
        loss.backward()
        assert len(runs) == 1 + again
        found.append([loss.detach(), *(p.grad for p in model.model.connector.parameters())])
        model.eval()
        assert not any(module.training for module in model.modules())
    for kept, made_again in zip(*found, strict=True):
        assert torch.allclose(kept, made_again, atol=1e-6)


def test_the_positions_of_whisper_never_train():
    model = tiny().model
    select_trainable(model, ["encoder"])
    assert not model.model.audio_tower.embed_positions.weight.requires_grad


def test_an_unknown_part_and_one_that_is_not_there_are_told():
    model = tiny().model
    with pytest.raises(ValueError, match="unknown part 'adapter'; known: encoder, encoder_lora, connector, lora, llm"):
        select_trainable(model, ["adapter"])
    with pytest.raises(ValueError, match="train: lora has no parameters here; add a `lora:` block"):
        select_trainable(model, ["lora"])


def test_recomputed_activations_give_the_same_gradients():
    built = tiny()
    inputs = inputs_of(built.processor)
    gradients = []
    for recompute in (False, True):
        if recompute:
            built.model.activation_checkpointing_enable()
        select_trainable(built.model, ["connector"])
        built.model.zero_grad()
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= built.model.lm_head.out_features, -100)
        built.model.train()
        built.model(**inputs, labels=labels).loss.backward()
        gradients.append([p.grad.clone() for p in built.model.model.connector.parameters()])
    torch.testing.assert_close(*gradients)


def test_the_manifest_says_what_is_stored_and_trained(built, tmp_path):
    save_checkpoint(built.model, built.processor, tmp_path, trained={"connector"})
    manifest = json.loads((tmp_path / "checkpoint.json").read_text())
    assert manifest == {"format": 1, "stored_parts": ["encoder", "connector", "llm"], "trained_parts": ["connector"]}


def test_a_clip_of_one_sample_is_heard(built):
    messages = (Message("user", (AudioPart((tone(440, 1 / RATE), RATE)), TextPart("?"))),)
    inputs = built.processor.collate_prompts([(messages, [tone(440, 1 / RATE)])])
    assert torch.isfinite(logits_of(built.model, inputs)).all()
