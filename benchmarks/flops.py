"""Floating-point operations of a step by a stated convention, and the rate of a matrix product to hold them against.

    frozen encoder and connector   2 N a frame (a vector)      forward alone
    frozen language model          4 N a token                 forward, and backward to its input
    what trains (LoRA)             6 N a token
    vocabulary projection          4 N a position projected

N counts the parameters that multiply: linear layers and convolutions, no embeddings, no norms. The scores of
attention are not counted. Padding, recomputation and logits that nobody needs are no use, and are not counted either.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

MULTIPLYING = (nn.Linear, nn.Conv1d)


def multiplying(module: nn.Module, *, trained: bool) -> int:
    """Parameters that multiply, of those that train or of the others."""
    layers = [layer for layer in module.modules() if isinstance(layer, MULTIPLYING)]
    return sum(layer.weight.numel() for layer in layers if layer.weight.requires_grad == trained)


def language_model_flops(model: Any, batch: Mapping[str, Any]) -> float:
    """Of the language model's forward and backward pass over a batch, its projection included."""
    inner = model.model.language_model
    tokens = int((batch["clip_ids"] >= 0).sum()) if "clip_ids" in batch else batch["input_ids"].numel()
    projected = int((batch["shift_labels"] != -100).sum())
    per_token = 4 * multiplying(inner, trained=False) + 6 * multiplying(inner, trained=True)
    return float(per_token * tokens + 4 * model.lm_head.weight.numel() * projected)


def listening_flops(model: Any, batch: Mapping[str, Any]) -> float:
    """Of the frozen encoder and connector: clips whose frames were kept cost no encoder."""
    rate = model.model.audio_tower.frame_rate_hz(model.config.audio_config.to_dict())
    frames = float(batch["input_values_mask"].sum()) / 16_000 * rate if "input_values_mask" in batch else 0.0
    vectors = int((batch["input_ids"] == model.config.placeholder_id).sum())
    encoder, connector = (multiplying(part, trained=False) for part in (model.model.audio_tower, model.model.connector))
    return 2.0 * encoder * frames + 2.0 * connector * vectors


def language_model_seconds(model: Any, batches: list[Any], repeats: int = 3) -> float:
    """Forward and backward of the language model alone on the batches, the best of some repeats."""
    names = ("position_ids", "branch_ids", "clip_ids", "shift_labels", "attention_mask")
    prepared = []
    for batch in batches:
        with torch.no_grad():
            embeds = embedded(model, batch)
        prepared.append((embeds, {name: batch[name] for name in names if name in batch}))
    best = float("inf")
    for _ in range(repeats):
        wait(model.device)
        started = time.perf_counter()
        for embeds, rest in prepared:
            model(inputs_embeds=embeds, **rest).loss.backward()
        wait(model.device)
        best = min(best, time.perf_counter() - started)
        model.zero_grad()
    return best


def embedded(model: Any, batch: Mapping[str, Any]) -> Any:
    """What the language model reads [B, S, D]."""
    from audiollm.models.splice import Kept

    names = ("audio_frames", "audio_frames_mask", "audio_is_cached")
    kept = Kept(*(batch[name] for name in names)) if "audio_frames" in batch else None
    return model.model.embed(batch["input_ids"], batch.get("input_values"), batch.get("input_values_mask"), kept)


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str, threads: int) -> float:
    """GFLOP/s of a matrix product: on the CPU of the small language model's shape in float32, on a GPU in bfloat16."""
    torch.set_num_threads(threads)
    M, K, N = (8192, 8192, 8192) if device == "cuda" else (1024, 512, 1536)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = torch.randn(M, K, device=device, dtype=dtype), torch.randn(K, N, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        wait(a.device)
        started = time.perf_counter()
        for _ in range(50):
            a @ b
        wait(a.device)
        best = max(best, 50 * 2 * M * K * N / (time.perf_counter() - started) / 1e9)
    return best
