"""How fast a stage trains: tokens, seconds of sound and rows a second, and the shares of padding."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from audiollm.data.collate import PADDING


class Throughput:
    """Counts micro-batches, and tells the rates since it was last asked."""

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self.since = time.perf_counter()
        self.steps = self.tokens = self.slots = self.samples = self.rows = 0
        self.heard = self.sound_slots = 0  # samples that the encoder hears in this stage, and with their padding

    def add(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Count the micro-batches of one step before they are sent to the device."""
        self.steps += 1
        for batch in batches:
            self.rows += len(batch["row_ids"])
            if "input_ids" in batch:
                mask = batch["clip_ids"] != PADDING if "clip_ids" in batch else batch.get("attention_mask")
                self.slots += batch["input_ids"].numel()
                self.tokens += batch["input_ids"].numel() if mask is None else int(mask.sum())
            self.samples += batch["num_samples"]
            if "input_values" in batch:
                self.heard += int(batch["input_values_mask"].sum())
                self.sound_slots += batch["input_values"].numel()

    def take(self) -> dict[str, float]:
        """Rates since the last call, for the log."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = {
            "rows_per_second": round(self.rows / seconds, 1),
            "audio_seconds_per_second": round(self.samples / self.sampling_rate / seconds, 1),
        }
        if self.slots:
            rates["tokens_per_second"] = round(self.tokens / seconds, 1)
            rates["padding_share"] = round(1 - self.tokens / self.slots, 4)
        if self.sound_slots:
            rates["audio_padding_share"] = round(1 - self.heard / self.sound_slots, 4)
        self.reset()
        return rates
