"""Memory and speed of rows that stay on disk: the index of many rows, and an epoch over them without decoding.

    python benchmarks/streaming.py --rows 1000000 --json streaming.json

The resident memory is that of the process, told after 100,000 rows and at the end; what the system keeps of the mapped
index (28 bytes a row) counts in it.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from audiollm.audio import write
from audiollm.data.mixture import Mixture
from audiollm.data.sampling import StreamSampler
from audiollm.data.streams import open_stream

BATCH = 16


def write_rows(folder: Path, count: int) -> Path:
    """So many rows, each about another cut of one recording."""
    write(folder / "clip.wav", np.zeros(16_000, np.float32), 16_000)
    path = folder / f"{count}.jsonl"
    with path.open("w") as file:
        for number in range(count):
            clip = {"type": "audio", "audio": "clip.wav", "start": number * 1e-6, "duration": 2 + number % 26}
            content = [clip, {"type": "text", "text": f"What is heard in recording {number}?"}]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": f"Sound {number % 97}."}]
            file.write(json.dumps({"id": str(number), "task": "aqa", "messages": messages}) + "\n")
    return path


def resident_mib() -> float:
    """What the process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def measure(folder: Path, count: int) -> dict[str, float]:
    """Make the index, and read every row once in the order of training."""
    path = write_rows(folder, count)
    found: dict[str, float] = {"rows": count, "mib_at_start": resident_mib()}
    started = time.perf_counter()
    stream, _ = open_stream(str(path), folder)
    found["index_seconds"] = round(time.perf_counter() - started, 1)
    found["mib_after_index"] = resident_mib()
    mixture = Mixture([stream], [1.0], seed=0)
    sampler = StreamSampler(mixture, BATCH, len(mixture))
    started, read = time.perf_counter(), 0
    for batch in sampler:
        read += sum(len(mixture[number]) for _, number in batch)
        if "mib_at_100k" not in found and read >= 100_000:
            found["mib_at_100k"] = resident_mib()
    found["rows_per_second"] = round(read / (time.perf_counter() - started))
    found["mib_at_end"] = resident_mib()
    started = time.perf_counter()
    sampler.set_epoch(1000)  # as a resumed run does
    next(iter(sampler))
    found["seconds_to_any_epoch"] = round(time.perf_counter() - started, 4)
    return found


def main() -> None:
    """Print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rows)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
