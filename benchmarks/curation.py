"""Rows a second and peak memory of `prepare`, `check` and `inspect`, each a command of its own, over a made-up corpus.

    python benchmarks/curation.py --rows 100000 --num-proc 2
    python benchmarks/curation.py --rows 5000 --num-proc 1 --set audiocaps

The corpus is that of a set as it lies on disk, with clips of 2 s at 16 kHz: ESC-50 (a table and wav files, four rows a
recording), AudioCaps (tables and wav files; one caption a clip in training, five in validation and test, which are one
row) or LibriSpeech (transcripts and flac files in folders of speakers and chapters). Rows are those that `prepare` says
it wrote, about `--rows`. Peak memory is that of the largest process.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

RATE, SECONDS = 16_000, 2
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


def write_clip(path: Path, number: int) -> None:
    """A tone in noise, another for each number."""
    times = np.arange(RATE * SECONDS) / RATE
    noise = np.random.default_rng(number).standard_normal(len(times))
    samples = 0.3 * np.sin(2 * np.pi * (100 + number % 3000) * times) + 0.02 * noise
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), RATE)


def write_table(path: Path, rows: list[tuple[object, ...]]) -> None:
    """A CSV; the first row is its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def make_esc50(folder: Path, rows: int) -> None:
    """meta/esc50.csv, audio/FOLD-NUMBER.wav; four rows are made of a recording."""
    table: list[tuple[object, ...]] = [("filename", "fold", "category")]
    for number in range(rows // 4):
        table.append((f"{number % 5 + 1}-{number}.wav", number % 5 + 1, LABELS[number % len(LABELS)]))
        write_clip(folder / "audio" / str(table[-1][0]), number)
    write_table(folder / "meta" / "esc50.csv", table)


def make_audiocaps(folder: Path, rows: int) -> None:
    """train.csv, val.csv and test.csv with captions, audio/YVIDEO_START.wav; one row is made of a clip."""
    header = ("audiocap_id", "youtube_id", "start_time", "caption")
    tables: dict[str, list[tuple[object, ...]]] = {name: [header] for name in ("train", "val", "test")}
    for number in range(rows):
        name = {8: "val", 9: "test"}.get(number % 10, "train")
        video, start_s, label = f"{number:011d}", 10 * (number % 30), LABELS[number % len(LABELS)].replace("_", " ")
        for told in range(1 if name == "train" else 5):
            caption = f"A {label} is heard {told + 1} times while a tone of {100 + number % 3000} Hz goes on"
            tables[name].append((10 * number + told, video, start_s, caption))
        write_clip(folder / "audio" / f"Y{video}_{start_s}.wav", number)
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)


def make_librispeech(folder: Path, rows: int) -> None:
    """LibriSpeech/SUBSET/SPEAKER/CHAPTER/, in it SPEAKER-CHAPTER.trans.txt and flac files, 40 to a chapter."""
    subsets = ("train-clean-100", "train-clean-100", "train-clean-360", "dev-clean", "test-clean")
    for chapter, first in enumerate(range(0, rows, 40)):
        speaker, subset = chapter // 2, subsets[chapter % len(subsets)]
        place = folder / "LibriSpeech" / subset / str(speaker) / str(chapter)
        lines = []
        for number in range(first, min(first + 40, rows)):
            name = f"{speaker}-{chapter}-{number - first:04d}"
            lines.append(f"{name} THE TONE OF {LABELS[number % len(LABELS)].upper()} NUMBER {number} GOES ON\n")
            write_clip(place / f"{name}.flac", number)
        (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))


SETS: dict[str, Callable[[Path, int], None]] = {
    "esc50": make_esc50,
    "audiocaps": make_audiocaps,
    "librispeech": make_librispeech,
}
"""Writes an archive in the layout of a set, for so many rows."""


def rows_written(folder: Path) -> int:
    """Rows of all splits, as `prepare` has written them down."""
    return sum(json.loads((folder / "prepared.json").read_text())["rows"].values())


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
    parser.add_argument("--set", choices=SETS, default="esc50")
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        SETS[args.set](folder / "archive", args.rows)
        procs = ["--num-proc", str(args.num_proc)]
        rows = str(folder / "paths" / "*.jsonl")
        source = ["prepare", args.set, "--source", str(folder / "archive"), *procs]
        commands = {
            "prepare, paths": [*source, "--out", str(folder / "paths")],
            "prepare, embed": [*source, "--out", str(folder / "embed"), "--audio", "embed"],
            "prepare, flac": [*source, "--out", str(folder / "flac"), "--audio", "flac"],
            "check": ["check", rows, "--out", str(folder / "checked"), *procs],
            "inspect": ["inspect", rows, "--out", str(folder / "report.html"), *procs],
        }
        for name, words in commands.items():
            seconds, kib = run(words)
            count = rows_written(folder / "paths")
            figures[name] = {"rows_per_second": count / seconds, "peak_mib": kib / 1024, "seconds": seconds}
            print(f"{name:16} {count / seconds:8,.0f} rows/s  {kib / 1024:6,.0f} MiB  {seconds:6.1f} s", flush=True)
        print(f"{args.set}: {count:,} rows")
    if args.json:
        args.json.write_text(json.dumps(figures | {"set": args.set, "rows": count}, indent=1) + "\n")


if __name__ == "__main__":
    main()
