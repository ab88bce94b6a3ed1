"""Milliseconds a generated token takes on a GPU, with and without cuDNN among the ways of SDPA.

    python benchmarks/decode.py

A language model of 1.5 billion random weights in bfloat16 and transformers' `generate`, twice: what cuDNN planned the
first time is there the second time.
"""

import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

NEW = 48


def milliseconds(model: Qwen2ForCausalLM, rows: int) -> float:
    """Of a token of each row, after a prompt of 300 to 390 tokens; of several rows one is padded."""
    length = 300 + int(torch.randint(0, 90, (1,)))
    ids = torch.randint(0, model.config.vocab_size, (rows, length), device=model.device)
    mask = torch.ones_like(ids)
    mask[0, : 9 * (rows > 1)] = 0
    torch.cuda.synchronize()
    started = time.perf_counter()
    how = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    model.generate(ids, attention_mask=mask, **how)
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / NEW * 1000


def main() -> None:
    """Measure and print."""
    config = Qwen2Config(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
        vocab_size=32_000,
    )  # fmt: skip
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
    print(torch.cuda.get_device_name(), torch.__version__)
    for cudnn in (True, False, True, False):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        for rows in (1, 4):
            found = milliseconds(model, rows)
            print(f"cuDNN {'on' if cudnn else 'off'}, {rows} rows: {found:.1f} ms a token", flush=True)


if __name__ == "__main__":
    main()
