"""LoRA on the encoder: it trains alone, is kept beside the language model's, and can be merged."""

import pytest
import torch
from tiny import tiny, tones

from audiollm.data.collate import pad_waveforms
from audiollm.models.checkpoint import load_small_checkpoint, save_checkpoint
from audiollm.models.freezing import add_lora, has_lora, merge_lora, require_lora, select_trainable, set_lora_scale

LORA = {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"], "part": "encoder_lora"}


@pytest.fixture
def adapted():
    """A model with LoRA on both sides, all of it moved off its start."""
    built = tiny()
    add_lora(built.model, **LORA)
    add_lora(built.model, r=2, alpha=2)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in built.model.named_parameters():
        if ".lora_B" in name:
            parameter.data.normal_(generator=draw)
    return built


def frames(model):
    with torch.no_grad():
        heard, mask = model.model.audio_tower(**pad_waveforms(tones(2)))
    return heard[mask]


def test_it_is_a_part_of_its_own_that_trains_alone(adapted):
    model = adapted.model
    counts = select_trainable(model, ["connector", "encoder_lora"])
    assert counts["encoder_lora"] == 2 * 2 * 2 * 4 * 16  # layers, projections, sides, rank, width
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("model.audio_tower.", "model.connector.")) for name in training)
    assert all(".lora_" in name for name in training if "audio_tower" in name)
    frames_NTC, _ = model.model.get_audio_frames(*pad_waveforms(tones(1)).values())
    frames_NTC.sum().backward()
    assert all(
        p.grad is not None for name, p in model.named_parameters() if "audio_tower" in name and ".lora_B" in name
    )


def test_a_checkpoint_keeps_it_beside_the_language_models_and_loads_both(adapted, tmp_path):
    save_checkpoint(adapted.model, adapted.processor, tmp_path / "checkpoint")
    again = load_small_checkpoint(tmp_path / "checkpoint")
    assert has_lora(again) and has_lora(again, "encoder_lora")
    torch.testing.assert_close(frames(again), frames(adapted.model), atol=0, rtol=0)
    require_lora(again, **LORA)
    with pytest.raises(ValueError, match=r"encoder_lora: .* r=8 \(the model's: 4\)"):
        require_lora(again, **LORA | {"r": 8})


def test_merged_into_the_encoder_it_hears_the_same_and_counts_as_trained(adapted, tmp_path):
    before = frames(adapted.model)
    merge_lora(adapted.model, "encoder_lora")
    assert not has_lora(adapted.model, "encoder_lora") and has_lora(adapted.model)
    torch.testing.assert_close(frames(adapted.model), before, atol=2e-5, rtol=1e-5)
    assert "encoder" in adapted.model.trained_parts


def test_the_scale_of_lora_is_the_language_models(adapted):
    before = frames(adapted.model)
    set_lora_scale(adapted.model, 0.0)
    torch.testing.assert_close(frames(adapted.model), before, atol=0, rtol=0)


def test_a_target_that_matches_nothing_is_told_with_the_layers():
    with pytest.raises(ValueError, match=r"encoder_lora.target_modules=.* nothing in the encoder; .*fc1.*q_proj"):
        add_lora(tiny().model, r=2, alpha=2, target_modules=["query"], part="encoder_lora")
