"""LoRA that is there goes on as it is, is never taken for another one, and is scaled and exchanged as a whole."""

import copy
import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import tiny
from transformers import AutoModelForCausalLM

from audiollm.inference import load
from audiollm.models.checkpoint import save_checkpoint, use_adapter
from audiollm.models.freezing import (
    adapted_layers,
    add_lora,
    has_lora,
    matching_layers,
    merge_lora,
    require_lora,
    set_lora_scale,
    without_lora,
)
from audiollm.models.modeling import AudioLLMForConditionalGeneration

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
TARGETS = ["all-linear", ["q_proj", "v_proj"], ["layers.1.mlp.up_proj"], r".*\.0\.self_attn\.[qk]_proj"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint with LoRA."""
    built = tiny()
    add_lora(built.model, **LORA)
    folder = tmp_path_factory.mktemp("lora") / "checkpoint"
    save_checkpoint(built.model, built.processor, folder, trained=set())
    return folder


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_the_layers_that_targets_mean_are_those_that_peft_adapts(targets):
    built = tiny()
    before = matching_layers(built.model, targets)
    add_lora(built.model, **{**LORA, "target_modules": targets})
    assert before and before == matching_layers(built.model, targets) == adapted_layers(built.model)


def test_the_same_lora_may_be_asked_for_again_after_saving_and_loading(saved):
    model = AudioLLMForConditionalGeneration.from_pretrained(saved)
    require_lora(model, **LORA)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    require_lora(model, **{**LORA, "target_modules": linear})  # raises where it is not the same
    assert (model.lora_config.r, model.lora_config.lora_alpha) == (LORA["r"], LORA["alpha"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 16}, "r=16 (the model's: 4)"),
        ({"alpha": 32}, "alpha=32 (the model's: 8)"),
        ({"dropout": 0.1}, "dropout=0.1 (the model's: 0.0)"),
        ({"target_modules": ["q_proj"]}, "target_modules=['q_proj'] (the model's: down_proj, gate_proj, "),
    ],
)
def test_other_lora_is_refused_with_both_values(saved, change, words):
    model = AudioLLMForConditionalGeneration.from_pretrained(saved)
    with pytest.raises(ValueError) as refused:
        require_lora(model, **{**LORA, **change})
    assert words in str(refused.value) and "leave the `lora:` block out" in str(refused.value)


# --------------------------------------------------------------------------------------------------------------- scales


IDS = torch.tensor([[5, 17, 40, 8, 23]])


def speaking(model, seed=1):
    """LoRA that changes what the model says."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(generator=draw)
    return model


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """One model, and checkpoints of it: without LoRA, with that of two tasks, and with another connector."""
    folder = tmp_path_factory.mktemp("tasks")
    built = tiny()
    save_checkpoint(built.model, built.processor, folder / "base", trained={"connector"})
    for number, name in enumerate(("speech", "music"), start=1):
        one = copy.deepcopy(built)
        add_lora(one.model, **{**LORA, "r": 2 * number})
        one.processor.system_prompt = name
        save_checkpoint(speaking(one.model, number), one.processor, folder / name, trained={"connector"})
    one.model.model.connector.output.weight.data += 0.1
    save_checkpoint(one.model, one.processor, folder / "moved", trained={"connector"})
    wider = tiny(connector={"name": "mlp", "stack": 4, "hidden_size": 16})
    add_lora(wider.model, **LORA)
    save_checkpoint(wider.model, wider.processor, folder / "mlp", trained={"connector"})
    return folder


@pytest.fixture(scope="module")
def said(tasks):
    """What each of them says."""
    return {name: logits(load(tasks / name).model) for name in ("base", "speech", "music")}


def test_scale_0_is_the_base_and_scale_1_what_was_trained(tasks, said):
    assert not torch.allclose(said["base"], said["speech"], atol=0.1)
    model = load(tasks / "speech", lora_scale=0).model
    torch.testing.assert_close(logits(model), said["base"], rtol=0, atol=0)
    set_lora_scale(model, 1.0)
    torch.testing.assert_close(logits(model), said["speech"], rtol=0, atol=0)
    set_lora_scale(model, 0.5)
    assert all(not torch.allclose(logits(model), said[name], atol=1e-2) for name in ("base", "speech"))


def test_a_scale_is_saved_merged_and_read_by_plain_peft(tasks, said, tmp_path):
    listener = load(tasks / "speech", lora_scale=0.5)
    expected = logits(listener.model)
    save_checkpoint(listener.model, listener.processor, tmp_path / "scaled")
    again = load(tmp_path / "scaled").model
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=0)
    assert again.lora_scale == 0.5 and again.lora_config.lora_alpha == LORA["alpha"]
    require_lora(again, **{**LORA, "r": 2})  # raises where it is not the same
    set_lora_scale(again, 1.0)
    torch.testing.assert_close(logits(again), said["speech"], rtol=0, atol=0)

    causal = AutoModelForCausalLM.from_config(listener.model.config.text_config)
    base = load_file(tasks / "base" / "model.safetensors")
    names = {"model.language_model.": "model.", "lm_head.": "lm_head."}
    for old, new in names.items():
        found = {new + name.removeprefix(old): tensor for name, tensor in base.items() if name.startswith(old)}
        assert found and not causal.load_state_dict(found, strict=False).unexpected_keys
    plain = PeftModel.from_pretrained(causal, str(tmp_path / "scaled" / "adapter")).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, expected, rtol=1e-5, atol=1e-5)

    merge_lora(listener.model)
    assert not has_lora(listener.model)
    torch.testing.assert_close(logits(listener.model), expected, rtol=1e-4, atol=1e-4)


def test_without_lora_for_a_while_comes_back_also_after_an_error(tasks, said):
    model = load(tasks / "speech", lora_scale=0.5).model
    expected = logits(model)
    with pytest.raises(KeyError), without_lora(model):
        torch.testing.assert_close(logits(model), said["base"], rtol=0, atol=0)
        raise KeyError
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)


def test_a_scale_that_means_nothing_is_told(tasks):
    with pytest.raises(ValueError, match=r"lora_scale=0\.5: this model has no LoRA"):
        load(tasks / "base", lora_scale=0.5)
    with pytest.raises(ValueError, match="lora_scale=-1; it must be 0"):
        load(tasks / "speech", lora_scale=-1.0)


# ------------------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("base", ["base", "speech"])
def test_a_checkpoint_takes_the_adapter_of_another_task(tasks, said, base):
    taken = load(tasks / base, adapter=tasks / "music")
    torch.testing.assert_close(logits(taken.model), said["music"], rtol=0, atol=0)
    assert taken.processor.system_prompt == "music" and taken.model.lora_config.r == 4


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("base", "has no adapter"),
        ("moved", r"weights differ in the connector \(model\.connector\.output\.weight\)"),
        ("mlp", "connectors differ, .*window_qformer.* and .*mlp"),
    ],
)
def test_an_adapter_that_was_trained_on_something_else_is_refused_with_the_reason(tasks, other, told):
    with pytest.raises(ValueError, match=told):
        load(tasks / "speech", adapter=tasks / other)


def test_an_adapter_of_another_base_is_refused_with_both_names(tasks, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(tasks / "speech", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["bases"] = {"llm": {"checkpoint": f"org/{name}", "revision": None, "fingerprint": name}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    model = load(tasks / "speech").model
    with pytest.raises(ValueError, match="bases differ, llm is org/one and org/two"):
        use_adapter(model, tmp_path / "one", tmp_path / "two")
