"""Tiny models, clips and rows that many tests share: two layers, random weights, made on the spot.

Weights are drawn much wider than for training, so that a wrong mask or position changes the result by far more than
rounding does.
"""

import hashlib

import numpy as np
import torch

from audiollm.audio import write
from audiollm.models.parts import Built, build
from audiollm.models.tokenizer import train_tokenizer

RATE = 16_000
WINDOW_S = 1.0
"""What one window of the tiny Whisper holds."""

ENCODER = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 80,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 64,
    "max_source_positions": 50, "max_target_positions": 8, "init_std": 0.2, "pad_token_id": 0, "bos_token_id": 0,
    "eos_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
QFORMER = {
    "name": "window_qformer", "window_s": 0.1, "num_queries": 2, "hidden_size": 16, "num_layers": 1, "num_heads": 2,
    "intermediate_size": 32, "dropout": 0.0,
}  # fmt: skip
MLP = {"name": "mlp", "stack": 4, "hidden_size": 16}
QUERIES = {"num_queries": 3, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32}
CONNECTOR_BLOCKS = {
    block["name"]: block
    for block in [
        QFORMER,
        MLP,
        {"name": "conv", "stack": 4, "hidden_size": 16},
        {"name": "pool_linear", "pool": 4, "norm": "plain", "divide_by": 50.0},
        {"name": "swiglu", "stack": 4, "hidden_size": 16},
        {"name": "global_qformer", **QUERIES, "dropout": 0.0},
        {"name": "layer_qformer", **QUERIES, "dropout": 0.0},
        {"name": "perceiver", **QUERIES},
    ]
}
"""A tiny block of every connector, by name."""

LLM = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 1024, "initializer_range": 0.3,
}  # fmt: skip
WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
"""Sizes of a language model that can be held in four bits: every layer has whole blocks of 64 inputs."""
LLMS = {
    "llama": {"model_type": "llama"},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral_window": {"model_type": "mistral", "sliding_window": 9},
    "qwen2_window": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "gemma3": {
        "model_type": "gemma3_text", "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
    },
    "phi3": {"model_type": "phi3"},
    "phi3_window": {"model_type": "phi3", "sliding_window": 9},
    "gemma2": {
        "model_type": "gemma2", "sliding_window": 9, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0, "tie_word_embeddings": False,
    },
    "granite": {
        "model_type": "granite", "embedding_multiplier": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0]},
    "olmo2": {"model_type": "olmo2"},
}  # fmt: skip
"""Language models by name: full attention, a window in every layer or in some, scaled embeddings, capped scores."""

HYBRID = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
RECURRENT = {
    "qwen3_next": {
        "model_type": "qwen3_next", "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1, **HYBRID,
    },
    "qwen3_5": {"model_type": "qwen3_5_text", **HYBRID},
    "mamba2": {"model_type": "mamba2", "num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "bamba": {"model_type": "bamba", "attn_layer_indices": [1], **MAMBA},
    "jamba": {
        "model_type": "jamba", "num_experts": 2, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1,
        "initializer_range": 0.05,  # wider, its recurrence multiplies rounding by a hundred
    },
    "falcon_h1": {"model_type": "falcon_h1", "mamba_d_ssm": 32, **MAMBA, "mamba_d_head": 8},
    "granitemoehybrid": {
        "model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"], "num_local_experts": 0,
        "shared_intermediate_size": 48, **MAMBA,
    },
    "lfm2": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
}  # fmt: skip
"""Language models that mix tokens by a recurrence or a convolution too, so that no mask keeps questions apart."""

WORDS = (
    "what do you hear? is there a dog or a bell in it? which comes first, the high or the low one? "
    "a dog barks, then a bell rings twice. yes no high low one two three none of them describe this sound"
)


def tokenizer():
    """A new tokenizer of 300 tokens at most; a processor adds the placeholder to it."""
    return train_tokenizer([WORDS] * 3, 300)


def tiny(llm: str = "qwen3", connector: dict = QFORMER, seed: int = 0, **changes) -> Built:
    """A model and its processor; `changes` are settings of the language model's config."""
    torch.manual_seed(seed)
    config = {**LLM, **(LLMS | RECURRENT)[llm], **changes}
    built = build(encoder={"config": ENCODER}, connector=connector, llm={"config": config}, tokenizer=tokenizer())
    unsettle(built.model.model.audio_tower)
    return built


def unsettle(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Move every bias and norm off its start at 0 or 1, behind which a missing mask could hide."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
    return module


def sections_of(connector: dict, width: int) -> tuple[int, ...]:
    """How a frame of this width divides: into two layers for a connector that reads several."""
    return (width // 2,) * 2 if connector["name"] == "layer_qformer" else (width,)


def tone(hertz: float, seconds: float, seed: int = 0) -> np.ndarray:
    """A tone in a little noise, mono float32."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.02, len(time))
    return (0.4 * np.sin(2 * np.pi * hertz * time) + noise).astype(np.float32)


def tones(count: int, seconds=(0.3, 0.8), seed: int = 0) -> list[np.ndarray]:
    """Clips of different pitch and length."""
    draw = np.random.default_rng(seed)
    return [tone(draw.uniform(200, 4000), draw.uniform(*seconds), seed + n) for n in range(count)]


def write_tones(folder, count: int, **options) -> list[str]:
    """Recordings on disk, by name relative to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.wav" for number in range(count)]
    for name, samples in zip(names, tones(count, **options), strict=True):
        write(folder / name, samples, RATE)
    return names


def checksum(module, names=lambda name: True) -> str:
    """A hash over all values of a module's tensors, or of those whose name is asked for."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if names(name):
            digest.update(name.encode() + tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
