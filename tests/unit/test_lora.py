"""LoRA that is there goes on as it is, and is never taken for another one that a recipe asks for."""

import pytest
from tiny import tiny

from audiollm.models.checkpoint import save_checkpoint
from audiollm.models.freezing import adapted_layers, add_lora, matching_layers, require_lora
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
