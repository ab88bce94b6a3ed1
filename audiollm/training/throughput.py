"""How fast a stage trains: tokens, seconds of sound and rows a second, and the share of padding."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from audiollm.data.collate import PADDING


class Throughput:
    """Counts micro-batches, and tells the rates since it was last asked."""

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        self.step = 0
        self.problems: list[str] = []
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self.since = time.perf_counter()
        self.tokens = self.slots = self.samples = self.rows = 0

    def add(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Count micro-batches before they are sent to the device."""
        for batch in batches:
            self.rows += len(batch["row_ids"])
            self.problems += batch["problems"]
            if "clip_ids" in batch:
                self.tokens += int((batch["clip_ids"] != PADDING).sum())
                self.slots += batch["clip_ids"].numel()
            if "input_values_mask" in batch:
                self.samples += int(batch["input_values_mask"].sum())

    def take(self, step: int) -> dict[str, float]:
        """Rates since the last call, for the log."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = {
            "rows_per_second": round(self.rows / seconds, 1),
            "audio_seconds_per_second": round(self.samples / self.sampling_rate / seconds, 1),
        }
        if self.slots:
            rates["tokens_per_second"] = round(self.tokens / seconds, 1)
            rates["padding_share"] = round(1 - self.tokens / self.slots, 4)
        self.step = step
        self.reset()
        return rates
