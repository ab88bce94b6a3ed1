"""Demo: speech by espeak-ng, sounds and music from arithmetic, and questions about them; nothing is downloaded.

    clips/                 16 kHz mono FLAC
    train.jsonl            one row a question, those of a clip one after the other
    validation.jsonl       voices and parameters of training, other clips
    test.jsonl             voices that training never hears, parameters that it never draws
    test_phrasings.jsonl   the same clips and questions, in words that training never reads
    text.jsonl             scenes told in words instead of sound

The same options give the same bytes, however many processes work.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from tqdm import tqdm

from audiollm.conversation import write_rows
from audiollm.curation.dataset import Converted
from data_prep.demo.phrasings import AUXILIARY, OTHER_PHRASINGS, PHRASINGS, TASKS, Phrasings
from data_prep.demo.questions import Asker
from data_prep.demo.render import write_clip
from data_prep.demo.rows import LICENSE, Asked, ask_about, audio_rows, text_rows
from data_prep.demo.scenes import draw_scenes
from data_prep.demo.words import MOST_WORDS

__all__ = ["DESCRIPTION", "LICENSE", "NAME", "TASKS", "prepare"]

NAME = "demo"
DESCRIPTION = "speech, sounds and music made on the spot, and eleven tasks about them"

PAIRS = {"train": 3, "validation": 1, "test": 1, "text": 3}
"""Pairs of `word` questions, one with yes and one with no, about what is said in one scene."""
EASY_SHARE = 0.5
"""Of the scenes to learn from, how many are asked an easy question, such as their kind: there is more to learn."""
TEST_QUESTIONS = 440
"""Of each task."""
STREAMS = {"train": 0, "validation": 1, "test": 2, "text": 3}
SCENES, PHRASES, CLIPS = range(3)
"""Each file draws from random numbers of its own: (seed, stream, SCENES or PHRASES or CLIPS)."""
CLIPS_A_JOB = 50


def prepare(
    out: Path,
    *,
    clips: NonNegativeInt = 8000,
    validation_clips: NonNegativeInt = 204,
    test_clips: NonNegativeInt = 3 * TEST_QUESTIONS,
    text_scenes: NonNegativeInt = 20_000,
    text_words: PositiveInt = MOST_WORDS,
    auxiliary: bool = False,
    seed: NonNegativeInt = 0,
    workers: PositiveInt = 2,
) -> Converted:
    """Write clips and rows into a folder.

    clips: of training. text_scenes: scenes told in words; text_words: longest row of words in these.
    auxiliary: in scenes told in words, also ask which word comes after which. workers: processes that make sound.
    """
    (out / "clips").mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    numbers = {"train": clips, "validation": validation_clips, "test": test_clips}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for split, number in numbers.items():
            asked = plan(split, number, seed)
            durations = list(make_clips(pool, asked, out / "clips", split, seed))
            for name, phrasings in files_of(split).items():
                rows = audio_rows(asked, durations, out / "clips", split, phrasings, stream(seed, split, PHRASES))
                written[name] = write_rows(out / name, rows)
    told = plan("text", text_scenes, seed, auxiliary=auxiliary, most_words=text_words)
    rows = text_rows(told, PHRASINGS | AUXILIARY, stream(seed, "text", PHRASES))
    written["text.jsonl"] = write_rows(out / "text.jsonl", rows)
    return Converted(written)


def plan(name: str, number: int, seed: int, *, auxiliary: bool = False, most_words: int = MOST_WORDS) -> list[Asked]:
    """The scenes of a file and the questions about them, without a sound."""
    rng = stream(seed, name, SCENES)
    scenes = draw_scenes("train" if name == "text" else name, number, rng, most_words)
    asker = Asker(rng, PAIRS[name], auxiliary=auxiliary, easy_share=EASY_SHARE if name in ("train", "text") else 1.0)
    return ask_about(name, scenes, asker, TEST_QUESTIONS if name == "test" else None)


def stream(seed: int, name: str, purpose: int) -> np.random.Generator:
    """Random numbers that depend on nothing but what they are for."""
    return np.random.default_rng((seed, STREAMS[name], purpose))


def files_of(split: str) -> dict[str, Phrasings]:
    """The files that a split is written to, and the ways of asking in each."""
    if split == "test":
        return {"test.jsonl": PHRASINGS, "test_phrasings.jsonl": OTHER_PHRASINGS}
    return {f"{split}.jsonl": PHRASINGS}


def make_clips(pool: ProcessPoolExecutor, asked: list[Asked], folder: Path, split: str, seed: int) -> Iterator[float]:
    """Make the clips of a split in several processes; gives their lengths in seconds, in order."""
    starts = range(0, len(asked), CLIPS_A_JOB)
    jobs = [(asked[start : start + CLIPS_A_JOB], start, folder, split, seed) for start in starts]
    with tqdm(total=len(asked), desc=f"{NAME}: {split} clips", leave=False, mininterval=1, disable=None) as bar:
        for durations in pool.map(make_some, jobs):
            bar.update(len(durations))
            yield from durations


def make_some(job: tuple[list[Asked], int, Path, str, int]) -> list[float]:
    """Make the clips of one job, in whichever process; their lengths in seconds."""
    asked, start, folder, split, seed = job
    return [
        write_clip(item.scene, folder / f"{item.id}.flac", split, (seed, STREAMS[split], CLIPS, start + index))
        for index, item in enumerate(asked)
    ]
