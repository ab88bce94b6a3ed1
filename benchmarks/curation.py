"""Rows a second and peak memory of `prepare`, `check` and `inspect`, each a command of its own, over a made-up corpus.

    python benchmarks/curation.py --rows 100000 --num-proc 2

The corpus is that of ESC-50 as it lies on disk (a table and wav files of 2 s, 16 kHz), four rows a recording: `--rows`
counts rows that are written. Peak memory is that of the largest process.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE, SECONDS, ROWS_A_CLIP = 16_000, 2, 4
LABELS = (
    "dog",
    "rooster",
    "rain",
    "sea_waves",
    "crying_baby",
    "sneezing",
    "mouse_click",
    "helicopter",
    "siren",
    "train",
)


def make_archive(folder: Path, clips: int) -> None:
    """Tones in noise, each another."""
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").mkdir()
    rng = np.random.default_rng(0)
    times = np.arange(RATE * SECONDS) / RATE
    with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("filename", "fold", "category"))
        for number in range(clips):
            name = f"{number % 5 + 1}-{number}.wav"
            table.writerow((name, number % 5 + 1, LABELS[number % len(LABELS)]))
            samples = 0.3 * np.sin(2 * np.pi * (100 + number % 3000) * times) + 0.02 * rng.standard_normal(len(times))
            soundfile.write(folder / "audio" / name, samples.astype(np.float32), RATE)


def run(words: list[str]) -> tuple[float, int]:
    """Seconds, and KiB of the largest process of a command and its workers."""
    started = time.perf_counter()
    program = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
    )
    command = [str(Path(sys.executable).with_name("audiollm")), *words]
    done = subprocess.run([sys.executable, "-c", program, *command], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, int(done.stdout)


def main() -> None:
    """Make the corpus, time the commands, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_archive(folder / "archive", args.rows // ROWS_A_CLIP)
        procs = ["--num-proc", str(args.num_proc)]
        rows = str(folder / "paths" / "*.jsonl")
        source = ["prepare", "esc50", "--source", str(folder / "archive"), *procs]
        commands = {
            "prepare, paths": [*source, "--out", str(folder / "paths")],
            "prepare, embed": [*source, "--out", str(folder / "embed"), "--audio", "embed"],
            "prepare, flac": [*source, "--out", str(folder / "flac"), "--audio", "flac"],
            "check": ["check", rows, "--out", str(folder / "checked"), *procs],
            "inspect": ["inspect", rows, "--out", str(folder / "report.html"), *procs],
        }
        for name, words in commands.items():
            seconds, kib = run(words)
            figures[name] = {"rows_per_second": args.rows / seconds, "peak_mib": kib / 1024, "seconds": seconds}
            print(f"{name:16} {args.rows / seconds:8,.0f} rows/s  {kib / 1024:6,.0f} MiB  {seconds:6.1f} s", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures | {"rows": args.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
