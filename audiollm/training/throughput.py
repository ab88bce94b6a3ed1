"""How fast a stage trains: tokens, seconds of sound and rows a second, the shares of padding and of waiting."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from audiollm.data.collate import PADDING

COUNTED = ("rows", "samples", "tokens", "slots", "heard", "sound_slots", "waited")
"""Samples are of all clips, `heard` those that the encoder hears, slots with padding; `waited` is in seconds."""


class Throughput:
    """Counts the micro-batches of one process, and tells the rates since it was last asked."""

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self.since = time.perf_counter()
        self.steps = 0
        self.counted: Counter[str] = Counter()

    def add(self, batches: Iterable[Mapping[str, Any]], waited: float) -> None:
        """Count the micro-batches of one step, for which it was waited so many seconds, before they are sent away."""
        self.steps += 1
        self.counted["waited"] += waited  # type: ignore[assignment]
        for batch in batches:
            self.counted["rows"] += len(batch["row_ids"])
            if "input_ids" in batch:
                mask = batch["clip_ids"] != PADDING if "clip_ids" in batch else batch.get("attention_mask")
                slots = batch["input_ids"].numel()
                self.counted["slots"] += slots
                self.counted["tokens"] += slots if mask is None else int(mask.sum())
            self.counted["samples"] += batch["num_samples"]
            if "input_values" in batch:
                self.counted["heard"] += int(batch["input_values_mask"].sum())
                self.counted["sound_slots"] += batch["input_values"].numel()

    def take(self, accelerator: Any) -> dict[str, float]:
        """Rates of all processes together since the last call, for the log; all of them must call it."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        mine = torch.tensor([float(self.counted[name]) for name in COUNTED], device=accelerator.device)
        every: Tensor = accelerator.reduce(mine, "sum")
        found = dict(zip(COUNTED, every.tolist(), strict=True))
        rates = {
            "rows_per_second": round(found["rows"] / seconds, 1),
            "audio_seconds_per_second": round(found["samples"] / self.sampling_rate / seconds, 1),
            "data_wait_share": round(found["waited"] / seconds / accelerator.num_processes, 4),
        }
        if found["slots"]:
            rates["tokens_per_second"] = round(found["tokens"] / seconds, 1)
            rates["padding_share"] = round(1 - found["tokens"] / found["slots"], 4)
        if found["sound_slots"]:
            rates["audio_padding_share"] = round(1 - found["heard"] / found["sound_slots"], 4)
        self.reset()
        return rates
