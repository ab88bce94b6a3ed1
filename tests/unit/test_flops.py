"""The benchmark's operations, by its convention, are those that torch counts in the same matrix products."""

import pytest
import torch
from flops import language_model_flops, listening_flops, multiplying
from tiny import MLP, tiny
from torch.utils.flop_counter import FlopCounterMode

from audiollm.models.encoders.clips import through_layers
from audiollm.models.freezing import add_lora, select_trainable

PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)


def counted(run):
    """What torch counts in products with weights: attention's scores are batched products, and left out."""
    with FlopCounterMode(display=False) as counter:
        run()
    return sum(count for kind, count in counter.get_flop_counts()["Global"].items() if kind in PRODUCTS)


def batch_of(model, seconds=1.0, tokens=60):
    """One sequence of a second of sound and some text, a third of it supervised."""
    ids = torch.randint(3, 100, (1, tokens))
    ids[0, 2 : 2 + model.config.num_audio_tokens(round(seconds * 16_000))] = model.config.placeholder_id
    labels = torch.where(torch.arange(tokens) >= 2 * tokens // 3, ids, -100)
    waves = torch.randn(1, round(seconds * 16_000))
    mask = torch.ones_like(waves, dtype=torch.bool)
    return {"input_ids": ids, "shift_labels": labels, "input_values": waves, "input_values_mask": mask}


@pytest.fixture
def model():
    """Wide enough that the first layer's and LoRA's shares are small."""
    built = tiny("qwen2", MLP, num_hidden_layers=6, hidden_size=64, intermediate_size=256)
    add_lora(built.model, r=2, alpha=4, target_modules=["q_proj", "v_proj"])
    select_trainable(built.model, ["lora"])
    return built.model.train()


def test_the_language_models_part(model):
    batch = batch_of(model)
    embeds = torch.randn(1, 60, 64, requires_grad=True)  # as behind a connector that trains

    def run():
        model(inputs_embeds=embeds, shift_labels=batch["shift_labels"]).loss.backward()

    assert language_model_flops(model, batch) == pytest.approx(counted(run), rel=0.03)


def test_the_frozen_encoder_and_connector(model):
    batch, tower = batch_of(model), model.model.audio_tower
    x_MTC, mask_MT = torch.randn(1, 50, tower.config.d_model), torch.ones(1, 50, dtype=torch.bool)  # a second

    def run():
        with torch.no_grad():
            frames = through_layers(tower.layers, tower.layer_norm, tower.config, x_MTC, mask_MT, [])[0]
            model.model.connector(frames, mask_MT)

    convolutions = 2 * 50 * (tower.conv1.weight.numel() + tower.conv2.weight.numel())
    assert listening_flops(model, batch) == pytest.approx(counted(run) + convolutions, rel=0.03)


def test_what_trains_is_counted_apart(model):
    inner = model.model.language_model
    lora = sum(parameter.numel() for parameter in inner.parameters() if parameter.requires_grad)
    assert multiplying(inner, trained=True) == lora > 0
    layers = [layer for layer in inner.modules() if isinstance(layer, torch.nn.Linear)]
    assert multiplying(inner, trained=False) == sum(layer.weight.numel() for layer in layers) - lora
