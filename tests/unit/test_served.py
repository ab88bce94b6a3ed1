"""What vLLM's and SGLang's transformers backends look for in a model and its processor is there.

Neither is run here: the names and the calls are those of their sources (vllm/model_executor/models/transformers,
sglang/srt/models/transformers.py).
"""

import pytest
import torch
from tiny import MLP, tiny, tones
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CLIPS = tones(3, seconds=(0.2, 1.4))


@pytest.fixture(scope="module")
def built():
    return tiny(connector=MLP)


def test_the_model_says_where_its_parts_are(built):
    base = built.model.model
    assert built.model.base_model_prefix == "model" and built.model.base_model is base
    assert base._supports_attention_backend and not base._is_stateful
    assert base.get_encoder(modality="audio") is base.audio_tower
    assert base.get_decoder() is base.language_model
    assert base.config.get_text_config() is base.config.text_config
    assert base.config.audio_config.max_source_positions > 0  # the most audio tokens that room is made for
    assert {name.split(".")[0] for name in base.state_dict()} == {"audio_tower", "connector", "language_model"}


def test_attention_is_the_servers_and_gets_what_it_hands_over(built):
    seen = []

    def attention(module, query, key, value, mask, *, attention_instances, scaling=None, **_):
        seen.append(attention_instances[module.layer_idx])
        repeated = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(query, *repeated, is_causal=True, scale=scaling)
        return mixed.transpose(1, 2).contiguous(), None

    base = built.model.model
    text, embeds = base.config.text_config, torch.randn(1, 7, base.config.text_config.hidden_size)
    positions, before = torch.arange(7)[None], text._attn_implementation
    with torch.no_grad():
        expected = base(inputs_embeds=embeds, position_ids=positions).last_hidden_state
        ALL_ATTENTION_FUNCTIONS["served"] = attention
        try:
            base.language_model.config._attn_implementation = "served"
            found = base(
                input_ids=None, inputs_embeds=embeds, position_ids=positions, use_cache=False, return_dict=False,
                attention_instances={0: "first", 1: "second"},
            )[0]  # fmt: skip
        finally:
            base.language_model.config._attn_implementation = before
            del ALL_ATTENTION_FUNCTIONS["served"]
    assert seen == ["first", "second"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_audio_features_of_a_batch_split_into_those_of_each_clip(built):
    heard = built.processor.feature_extractor(CLIPS, return_tensors="pt")
    counts = [built.processor.num_audio_tokens(len(clip)) for clip in CLIPS]
    base = built.model.model
    with torch.no_grad():
        mask = {"input_values_mask": heard["input_values_mask"]}
        together = base.get_audio_features(heard["input_values"], return_dict=True, **mask).pooler_output
        for part, clip in zip(together.split(counts), CLIPS, strict=True):
            alone = built.processor.feature_extractor([clip], return_tensors="pt")
            one = base.get_audio_features(alone["input_values"], alone["input_values_mask"]).pooler_output
            torch.testing.assert_close(part, one, atol=1e-4, rtol=1e-4)


def test_the_processor_tells_what_each_placeholder_becomes(built):
    processor = built.processor
    extractor = processor.feature_extractor
    assert extractor.sampling_rate == processor.sampling_rate
    assert set(extractor.model_input_names) == {"input_values", "input_values_mask"}
    token = processor.audio_token
    text = f"first {token} then {token}{token}?"
    made = processor(
        text=text, audio=CLIPS, return_tensors="pt", return_text_replacement_offsets=True, return_mm_token_type_ids=True
    )
    [offsets] = made["text_replacement_offsets"]
    assert [text[slice(*one["span"])] for one in offsets] == [token] * 3
    expanded = text
    for one in reversed(offsets):
        start, end = one["span"]
        expanded = expanded[:start] + one["replacement"] + expanded[end:]
    assert processor.tokenizer(expanded, add_special_tokens=False)["input_ids"] == made["input_ids"][0].tolist()
    assert torch.equal(made["mm_token_type_ids"] == 3, made["input_ids"] == processor.audio_token_id)
    assert processor.tokenizer.encode(token, add_special_tokens=False) == [processor.audio_token_id]


def test_a_prompt_without_sound_has_no_offsets(built):
    made = built.processor(text="what is it?", return_text_replacement_offsets=True)
    assert made["text_replacement_offsets"] == [[]] and "input_values" not in made
