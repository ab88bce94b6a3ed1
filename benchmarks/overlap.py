"""How well the acoustic fingerprint finds the same recording again, and how often it takes another one for it.

    python benchmarks/overlap.py --clips 5000 --num-proc 2 --json overlap.json

Clips of 2 to 10 s are made up: speech (voices say the same words, and other words in the same voice), textures of
noise, rows of events, melodies of few notes. About a third of them has a sibling that is really similar: the same words
or tune in another voice or instrument, or the same maker and texture with another draw. All are indexed as they are;
then each is looked up as it is, and changed in some of nine ways (in turns). Counted are recall for each change, and
look-ups that gave any clip but their own. Noise, voices and changes are the same for a seed.
"""

import argparse
import io
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))  # data_prep lies beside this folder

from audiollm import audio
from audiollm.curation.fingerprint import RATE, Fingerprint, fingerprint, reason_against
from audiollm.curation.overlap import Index, Prints
from data_prep.demo.draw import Draw
from data_prep.demo.music import DIRECTIONS, INSTRUMENTS, MAJOR
from data_prep.demo.sounds import BACKGROUNDS, SOUNDS
from data_prep.demo.synth import RATE as MADE_RATE
from data_prep.demo.synth import Samples, in_room, length, noise, place, to_peak
from data_prep.demo.voices import say, voices
from data_prep.demo.words import VOCABULARY

KINDS = ("speech", "speech", "texture", "events", "melody")
CUT_S = 5.0


def make(number: int, seed: int) -> tuple[str, np.ndarray]:
    """The kind and the samples [L] at 16 kHz of a clip; numbers 3n and 3n+1 of a kind share words, tune or scene."""
    kind = KINDS[number % len(KINDS)]
    own = np.random.default_rng([seed, number])
    group = number // len(KINDS)
    shared = np.random.default_rng([seed, 10**9, number % len(KINDS), group - (group % 3 == 1)])
    samples = MAKERS[kind](shared, Draw(own, "train"), float(shared.uniform(2, 10)))
    return kind, to_peak(samples, float(own.uniform(0.1, 0.9))).astype(np.float32)


def speech(shared: np.random.Generator, draw: Draw, seconds: float) -> Samples:
    """Words in a voice; the same words for siblings, and one of 40 voices."""
    words = " ".join(shared.choice(VOCABULARY, max(3, int(2.2 * seconds))))
    voice = voices("train")[int(draw.rng.integers(len(voices("train"))))]
    spoken = say(draw, voice, words)[: length(10)]
    spoken = np.pad(spoken, (0, max(0, length(2) - len(spoken))))
    heard = in_room(spoken, draw.rng, 0.05, float(draw.rng.uniform(0, 0.3)))
    return heard + 1e-4 * draw.rng.standard_normal(len(heard))


def texture(shared: np.random.Generator, draw: Draw, seconds: float) -> Samples:
    """Rain, wind, engine, applause, or noise in a band; siblings have the same kind and band."""
    kind = int(shared.integers(len(BACKGROUNDS) + 1))
    low = float(shared.uniform(80, 1500))
    if kind < len(BACKGROUNDS):
        return SOUNDS[BACKGROUNDS[kind]](draw, seconds)
    return noise(draw.rng, seconds, low, low * float(shared.uniform(1.5, 4)))


def events(shared: np.random.Generator, draw: Draw, seconds: float) -> Samples:
    """Some of sixteen sounds at times of their own, over faint noise; siblings have the same ones at the same times."""
    track = 0.01 * noise(draw.rng, seconds, 100, 6000)
    for _ in range(max(2, int(seconds / 1.5))):
        name, at = str(shared.choice(sorted(SOUNDS))), float(shared.uniform(0, seconds - 1))
        place(track, to_peak(SOUNDS[name](draw, float(shared.uniform(0.6, 1.6))), 0.5), at)
    return track


def melody(shared: np.random.Generator, draw: Draw, seconds: float) -> Samples:
    """Three to eight notes of a scale, held and repeated, on the tempered scale; siblings play the same tune.

    Each plays at about the same tempo, as people do: 3 % faster or slower, notes 10 ms early or late, a tenth of a
    semitone out of tune.
    """
    name = str(draw.rng.choice(sorted(INSTRUMENTS)))
    note, lowest = INSTRUMENTS[name].make(draw), INSTRUMENTS[name].lowest + int(shared.integers(0, 6))
    steps = shared.choice(MAJOR[:8], int(shared.integers(3, 9)))
    apart = float(shared.choice([0.25, 0.3, 0.4, 0.5])) * float(draw.rng.uniform(0.97, 1.03))
    steps = np.sort(steps) if str(shared.choice(DIRECTIONS)) == "rising" else steps
    track, tuning = np.zeros(length(seconds)), float(draw.rng.normal(0, 0.1))
    for index, start in enumerate(np.arange(0.05, seconds - apart, apart)):
        frequency = 440 * 2 ** ((lowest + int(steps[index % len(steps)]) + tuning - 69) / 12)
        loudness, late_s = float(draw.rng.uniform(0.6, 1)), float(draw.rng.normal(0, 0.01))
        place(track, loudness * note(frequency, apart * 0.8), max(0.0, float(start) + late_s))
    return track


MAKERS: dict[str, Callable[[np.random.Generator, Draw, float], Samples]] = {
    make_one.__name__: make_one for make_one in (speech, texture, events, melody)
}


def there_and_back(rate: int) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Resampled to a rate and back."""
    return lambda samples, rng: audio.resample(audio.resample(samples, MADE_RATE, rate), rate, MADE_RATE)


def gain(decibels: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Louder or softer in 16 bits; what exceeds full scale is clipped, as a file does."""
    factor = 10 ** (decibels / 20)
    return lambda samples, rng: np.round(np.clip(samples * factor, -1, 1) * 32767).astype(np.float32) / 32768


def mp3(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """MP3 at 64 kbit/s by LAME, decoded, with the delay of the codec."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=MADE_RATE)
        stream.bit_rate, stream.layout, stream.format = 64_000, "mono", "fltp"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate = MADE_RATE
        for packets in (stream.encode(frame), stream.encode(None)):
            container.mux(packets)
    return audio.load(out.getvalue(), MADE_RATE)


def shift(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """50 ms of silence in front."""
    return np.concatenate([np.zeros(length(0.05), np.float32), samples])


def shift_forward(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first 50 ms missing."""
    return samples[length(0.05) :]


def cut(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """5 s from anywhere; half of a clip of less than 8 s, at least 2 s."""
    wanted = length(CUT_S) if len(samples) >= length(8) else max(length(2), len(samples) // 2)
    begin = int(rng.integers(0, max(1, len(samples) - wanted)))
    return samples[begin : begin + wanted]


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "8 kHz and back": there_and_back(8_000),
    "22.05 kHz and back": there_and_back(22_050),
    "44.1 kHz and back": there_and_back(44_100),
    "+12 dB": gain(12),
    "-12 dB": gain(-12),
    "mp3, 64 kbit/s": mp3,
    "50 ms later": shift,
    "50 ms earlier": shift_forward,
    "cut": cut,
}


class Made(NamedTuple):
    """A clip as it is and changed; `against` says why it has no fingerprint."""

    kind: str
    seconds: float
    clean: Fingerprint
    against: str | None
    changed: dict[str, Fingerprint]
    fingerprint_s: float  # of processor, to decode FLAC, resample and fingerprint the clip as it is


def made(number: int, seed: int, per_clip: int) -> Made:
    """One clip, and `per_clip` of its changes, in turns."""
    kind, samples = make(number, seed)
    rng = np.random.default_rng([seed, number, 1])
    content = audio.encode(samples, MADE_RATE)
    started = time.process_time()
    heard = audio.load(content, RATE)
    clean = fingerprint(heard)
    took = time.process_time() - started
    names = list(CHANGES)
    chosen = [names[(number * per_clip + turn + number // len(names)) % len(names)] for turn in range(per_clip)]
    changed = {told(name, samples): print_of(CHANGES[name](samples, rng)) for name in chosen}
    return Made(kind, len(samples) / MADE_RATE, clean, reason_against(heard, clean), changed, took)


def told(change: str, samples: np.ndarray) -> str:
    """The name of a change; louder beyond full scale is another thing than louder."""
    return f"{change}, clipped" if change == "+12 dB" and np.abs(samples).max() * 10 ** (12 / 20) > 1 else change


def print_of(samples: np.ndarray) -> Fingerprint:
    """The fingerprint of samples at 16 kHz."""
    return fingerprint(audio.load((samples, MADE_RATE), RATE))


def make_all(clips: int, seed: int, per_clip: int, num_proc: int) -> list[Made]:
    """All clips, in order."""
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn")) as pool:
        return list(
            pool.map(made, range(clips), [seed] * clips, [per_clip] * clips, chunksize=max(1, min(20, clips // 8)))
        )


def measure(corpus: list[Made]) -> dict[str, Any]:
    """Look everything up."""
    prints = Prints.joined([one.clean if one.against is None else None for one in corpus])
    index = Index(prints)
    asked, found = Counter[str](), Counter[str]()
    wrong, wrong_pairs, missed = Counter[str](), Counter[str](), Counter[str]()
    queries, started = 0, time.process_time()
    for number, one in enumerate(corpus):
        if one.against is not None:
            continue
        for name, query in {"as it is": one.clean, **one.changed}.items():
            clips = {match.clip for match in index.find(query)}
            queries += 1
            asked[name] += 1
            found[name] += number in clips
            missed[one.kind] += number not in clips
            wrong[name] += bool(clips - {number})
            for other in clips - {number}:
                wrong_pairs[f"{one.kind} as {corpus[other].kind}"] += 1
    seconds = time.process_time() - started
    compared = asked.total() * (len(corpus) - 1)
    return {
        "clips": len(corpus),
        "kinds": Counter(one.kind for one in corpus),
        "without a fingerprint": Counter(one.against for one in corpus if one.against),
        "recall": {name: f"{found[name] / asked[name]:.4f} of {asked[name]}" for name in sorted(asked)},
        "recall of all changes": round(
            (found.total() - found["as it is"]) / max(1, asked.total() - asked["as it is"]), 4
        ),
        "queries with a false match": f"{wrong.total() / queries:.5f} ({wrong.total()} of {queries})",
        "of these, as it is": f"{wrong['as it is']} of {asked['as it is']}",
        "false pairs of all pairs": sum(wrong_pairs.values()) / max(1, compared),
        "false pairs": wrong_pairs,
        "missed, by kind": missed,
        "bytes for 10 s": round(
            10 * sum(8 * len(o.clean.bits) for o in corpus) / max(1.0, sum(o.seconds for o in corpus))
        ),
        "decoded and fingerprinted, of 10 s, a second of one core": round(
            sum(o.seconds for o in corpus) / 10 / sum(o.fingerprint_s for o in corpus), 1
        ),
        "looked up, a second of one core": round(queries / seconds, 1),
    }


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--changes", type=int, default=len(CHANGES), help="of each clip, in turns")
    parser.add_argument("--num-proc", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    figures = measure(make_all(options.clips, options.seed, options.changes, options.num_proc))
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
