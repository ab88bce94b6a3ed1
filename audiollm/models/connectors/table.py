"""The table of connectors in their published forms: audio tokens and parameters, counted without weights.

python -m audiollm.models.connectors.table        prints it, as docs/connectors.md shows it
"""

import json
from collections.abc import Mapping
from typing import Any

import torch

from audiollm.models.connectors import build_connector, check_connector, connector_class, connector_settings

FRAME_RATE_HZ = 50.0
DIM_IN = 1280
DIM_OUT = 4096
CLIP_S = 30

PUBLISHED: dict[str, dict[str, Any]] = {
    "SLAM-LLM, linear": {"name": "mlp", "activation": "relu", "remainder": "drop"},
    "LLaVA, LLaSO": {"name": "mlp", "stack": 1, "hidden_size": None},
    "Audio Flamingo 3": {
        "name": "mlp", "stack": 2, "join": "mean", "norm": "layer_norm", "hidden_size": None, "remainder": "drop",
    },
    "SLAM-LLM, convolution": {"name": "conv", "remainder": "drop"},
    "Qwen2-Audio": {"name": "pool_linear", "norm": "layer_norm", "remainder": "drop"},
    "LTU": {"name": "pool_linear", "norm": "plain", "divide_by": 50.0, "remainder": "drop"},
    "Ultravox 0.5": {"name": "swiglu"},
    "Ultravox 0.4": {"name": "swiglu", "norm": "out"},
    "SALMONN": {"name": "window_qformer", "remainder": "drop"},
    "Granite Speech": {
        "name": "window_qformer", "window_s": 0.3, "num_queries": 3, "query_std": 1.0, "input_norm": False,
        "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096,
    },
    "SLAM-LLM, Q-Former": {"name": "global_qformer"},
    "DeSTA2.5": {"name": "layer_qformer"},
    "Flamingo's resampler": {"name": "perceiver"},
}  # fmt: skip
"""Block of each public design; what a block leaves out is the connector's default."""

SECTIONS = {"layer_qformer": (DIM_IN,) * 4}
"""Layers side by side, for connectors that need several."""


def num_parameters(block: Mapping[str, Any], *, dim_in: int = DIM_IN, dim_out: int = DIM_OUT) -> int:
    """Parameters of a connector between an encoder and a language model of these widths."""
    sections = SECTIONS.get(block["name"], (dim_in,))
    with torch.device("meta"):
        connector = build_connector(
            check_connector(block),
            dim_in=sum(sections),
            dim_out=dim_out,
            frame_rate_hz=FRAME_RATE_HZ,
            sections=sections,
        )
    return sum(parameter.numel() for parameter in connector.parameters())


def num_tokens(block: Mapping[str, Any], num_frames: int) -> int:
    """Audio tokens that a clip of some frames becomes."""
    return connector_class(block["name"]).num_tokens(connector_settings(block), num_frames, FRAME_RATE_HZ)


def connector_table() -> str:
    """A Markdown table with a line for each published form."""
    lines = [f"| design | connector | tokens for {CLIP_S} s | a second | parameters |", "|---|---|---:|---:|---:|"]
    for design, block in PUBLISHED.items():
        tokens = num_tokens(block, round(CLIP_S * FRAME_RATE_HZ))
        shown = ", ".join(f"{key}: {json.dumps(value).strip(chr(34))}" for key, value in block.items())
        figures = f"{tokens:,} | {tokens / CLIP_S:.2f} | {num_parameters(block):,}"
        lines.append(f"| {design} | `{{{shown}}}` | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(connector_table())
