"""What two sets share is found by name, content and sound; what differs, is silent or is steady matches nothing."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from audiollm import audio, cli
from audiollm.conversation import parse_row
from audiollm.curation.fingerprint import RATE, Fingerprint, fingerprint, reason_against, strong_bits
from audiollm.curation.overlap import (
    Index,
    Overlap,
    Prints,
    find_overlap,
    names_of,
    refuse_duplicates,
    self_errors,
)

MADE_RATE = 16_000


def scene(number: int, seconds: float = 6.0) -> np.ndarray:
    """Notes and bursts of noise at random times, of its own for each number; [L] at 16 kHz."""
    rng = np.random.default_rng([7, number])
    samples = 0.003 * rng.standard_normal(round(seconds * MADE_RATE))
    for start in np.arange(0, seconds - 0.3, 0.2):
        length = int(rng.integers(1_600, 4_800))
        times, begin = np.arange(length) / MADE_RATE, round(start * MADE_RATE)
        note = np.sin(2 * np.pi * rng.uniform(250, 3_000) * times * (1 + rng.uniform(-0.3, 0.3) * times))
        piece = (note + 0.3 * rng.standard_normal(length)) * np.exp(-times / rng.uniform(0.03, 0.2))
        samples[begin : begin + length] += 0.1 * piece[: len(samples) - begin]
    return samples.astype(np.float32)


def through(rate: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda samples: audio.resample(audio.resample(samples, MADE_RATE, rate), rate, MADE_RATE)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda samples: samples,
    "8 kHz": through(8_000),
    "22.05 kHz": through(22_050),
    "44.1 kHz": through(44_100),
    "louder": lambda samples: np.clip(4 * samples, -1, 1),
    "softer": lambda samples: samples / 4,
    "mp3": lambda samples: audio.load(audio.encode(samples, MADE_RATE, "MP3"), MADE_RATE),
    "later": lambda samples: np.concatenate([np.zeros(800, np.float32), samples]),
    "cut": lambda samples: samples[31_234:71_234],
}
STEADY = {
    "silence": np.zeros(6 * MADE_RATE, np.float32),
    "tone": (0.3 * np.sin(2 * np.pi * 440 / MADE_RATE * np.arange(6 * MADE_RATE))).astype(np.float32),
    "other tone": (0.1 * np.sin(2 * np.pi * 1_234.5 / MADE_RATE * np.arange(6 * MADE_RATE))).astype(np.float32),
    "rounding": (1e-5 * np.random.default_rng(0).standard_normal(6 * MADE_RATE)).astype(np.float32),
}


def print_of(samples: np.ndarray) -> Fingerprint:
    return fingerprint(audio.load((samples, MADE_RATE), RATE))


def raw(name: str, sound: Any, **about: Any) -> dict[str, Any]:
    content = [{"type": "audio", "audio": sound}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A scene."}]
    return {"id": name, "messages": messages, **about}


def flac(samples: np.ndarray) -> bytes:
    return audio.encode(samples, MADE_RATE)


def ids(found: Overlap) -> list[tuple[str | None, str | None, tuple[str, ...]]]:
    return [(pair.train.row_id, pair.evaluation.row_id, pair.found) for pair in found.pairs]


@pytest.fixture(scope="module")
def index() -> Index:
    return Index(Prints.joined([print_of(scene(number)) for number in range(12)]))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_clip_is_found_and_no_other(index, change):
    for number in range(12):
        assert [match.clip for match in index.find(print_of(CHANGES[change](scene(number))))] == [number]


def test_a_match_says_where_and_how_long(index):
    (match,) = index.find(print_of(scene(3)[2 * MADE_RATE : 5 * MADE_RATE]))
    assert match.offset_s == pytest.approx(2, abs=0.04)
    assert match.shared_s == pytest.approx(3 - 0.376, abs=0.04)  # a window and the frame before take 0.376 s


def test_other_clips_find_nothing(index):
    assert not [match for number in range(100, 140) for match in index.find(print_of(scene(number)))]


@pytest.mark.parametrize("name", STEADY)
def test_what_is_silent_or_steady_has_no_fingerprint_and_no_strong_bit(name):
    samples = audio.load((STEADY[name], MADE_RATE), RATE)
    middle = fingerprint(samples[RATE:-RATE])
    assert not middle.strong.any()
    assert reason_against(samples, fingerprint(samples)) in ("too quiet", "too steady")


def test_the_fingerprint_does_not_depend_on_where_blocks_of_frames_end(monkeypatch):
    whole = print_of(scene(0, 8))
    monkeypatch.setattr("audiollm.curation.fingerprint.FRAMES_AT_ONCE", 7)
    pieces = print_of(scene(0, 8))
    assert (whole.bits == pieces.bits).mean() > 0.99  # sums of a product may be rounded otherwise
    assert not ((whole.bits ^ pieces.bits) & whole.strong & pieces.strong).any()


def test_ten_seconds_take_eight_kilobytes():
    assert sum(half.nbytes for half in print_of(scene(0, 10))) < 8_000


@pytest.mark.parametrize("decibels", [-6, -12, -24])
def test_the_level_changes_no_strong_bit(decibels):
    for number in range(4):
        loud, soft = (print_of(scene(number) * 10 ** (level / 20)) for level in (0, decibels))
        assert not ((loud.bits ^ soft.bits) & loud.strong & soft.strong).any()
        assert strong_bits(soft) > 0.5 * strong_bits(loud)


def tune(seed: int, tempo: float = 1.0) -> np.ndarray:
    """Three notes again and again, each of three harmonics that fade; each is a little early, late, loud or soft."""
    rng, samples = np.random.default_rng(seed), np.zeros(6 * MADE_RATE)
    times = np.arange(round(0.35 * MADE_RATE)) / MADE_RATE
    for number in range(12):
        frequency = 300 * 2 ** ([0, 4, 7][number % 3] / 12)
        note = sum(np.sin(2 * np.pi * frequency * k * times) / k for k in (1, 2, 3)) * np.exp(-8 * times)
        begin = round((0.1 + number * 0.45 * tempo + rng.uniform(0, 0.02)) * MADE_RATE)
        samples[begin : begin + len(note)] += rng.uniform(0.2, 0.3) * note
    return samples.astype(np.float32)


def test_a_tune_is_found_again_and_is_not_the_same_tune_played_anew():
    index = Index(Prints.joined([print_of(tune(0))]))
    assert index.find(print_of(tune(0)[round(0.053 * MADE_RATE) :]))
    for seed, tempo in enumerate([0.97, 0.98, 1.02, 1.03], 1):
        assert not index.find(print_of(tune(seed, tempo)))


def test_a_loop_is_like_itself_and_a_scene_is_not():
    assert self_errors(print_of(np.tile(scene(1, 1), 6))) < 0.02 < 0.2 < self_errors(print_of(scene(1)))


def test_sets_share_what_is_equal_and_what_sounds_the_same(tmp_path):
    train = [
        raw("equal", flac(scene(0))),
        raw("softer", flac(scene(1) / 4)),
        raw("own", flac(scene(50))),
        raw("again", flac(scene(0))),
    ]
    found = find_overlap(train, [raw(f"e{n}", flac(scene(n))) for n in range(3)], folder=tmp_path)
    assert sorted(ids(found)) == [("again", "e0", ("content",)), ("softer", "e1", ("sound",))]
    assert found.pairs[0].train.rows + found.pairs[1].train.rows == 3
    assert "3 rows of the training set and 2 rows of the evaluation set" in found.summary()


def test_steady_clips_are_counted_and_match_only_their_equals(tmp_path):
    train = [raw(name, flac(samples)) for name, samples in STEADY.items()]
    evaluation = [*[raw(f"e {name}", flac(samples[:-99])) for name, samples in STEADY.items()], train[1]]
    found = find_overlap(train, evaluation, folder=tmp_path)
    assert ids(found) == [("tone", "tone", ("content",))]
    assert found.train.against.total() == 4
    assert found.evaluation and found.evaluation.against == {"too quiet": 2, "too steady": 3}
    assert "not fingerprinted, of the evaluation set: 5 (too quiet 2, too steady 3)" in found.summary()


def test_a_short_clip_is_counted(tmp_path):
    found = find_overlap([raw("short", flac(scene(0, 1)))], folder=tmp_path)
    assert found.train.against == {"too short": 1}


def test_near_duplicates_within_a_set(tmp_path):
    rows = [raw(str(n), flac(scene(n))) for n in range(4)] + [raw("part", flac(scene(2)[20_000:70_000]))]
    found = find_overlap(rows, folder=tmp_path)
    assert [set(pair[:2]) for pair in ids(found)] == [{"2", "part"}]
    assert "1 pair of clips; 2 rows of the set" in found.summary()


@pytest.fixture
def wavs(tmp_path) -> Path:
    """Four scenes in files, and a second file of the third one: softer, and cut."""
    for number in range(4):
        audio.write(tmp_path / f"{number}.wav", scene(number), MADE_RATE)
    audio.write(tmp_path / "part.wav", scene(2)[20_000:70_000] / 2, MADE_RATE)
    return tmp_path


def rows_file(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def cut(name: str, sound: str, start: float, end: float) -> dict[str, Any]:
    row = raw(name, sound)
    row["messages"][0]["content"][0] |= {"start": start, "end": end}
    return row


def test_questions_about_one_clip_and_cuts_of_one_file_are_no_duplicates(wavs):
    rows = [raw(f"{n}-{ask}", f"{n}.wav", source_id=f"r{n}") for n in range(4) for ask in range(3)]
    rows += [cut("early", "2.wav", 0.0, 4.0), cut("late", "2.wav", 1.0, 5.5)]
    refuse_duplicates([rows_file(wavs / "train.jsonl", rows)], wavs / "prints")
    assert not find_overlap(str(wavs / "train.jsonl"), folder=wavs / "prints").pairs


def test_two_clips_of_one_recording_in_training_are_refused_with_number_place_and_way_out(wavs):
    path = rows_file(wavs / "train.jsonl", [*(raw(str(n), f"{n}.wav") for n in range(4)), raw("part", "part.wav")])
    with pytest.raises(ValueError) as refused:
        refuse_duplicates([path], wavs / "prints")
    told = str(refused.value)
    assert told.startswith("training has 1 pair of clips of one recording, the first in ")
    assert f"{path}:3" in told and f"{path}:5" in told and "(sound)" in told
    assert told.endswith(f"`audiollm overlap {path}` lists them: leave them out, or set refuse_duplicates to false")


def test_two_clips_of_one_recording_in_two_files_of_training_are_refused(wavs):
    paths = [rows_file(wavs / f"{n}.jsonl", [raw(n, f"{n}.wav")]) for n in ("2", "part")]
    with pytest.raises(ValueError, match="`audiollm overlap ROWS`, and `--with ROWS` for two files, list them"):
        refuse_duplicates(paths, wavs / "prints")
    for path in paths:
        refuse_duplicates([path], wavs / "prints")


def test_the_command_fails_for_duplicates_where_it_is_asked_to(wavs):
    rows = [raw(name, f"{name}.wav") for name in ("0", "2", "part")]
    path, index = rows_file(wavs / "train.jsonl", rows), ["--index", str(wavs / "prints")]
    told = CliRunner().invoke(cli.app, ["overlap", path, *index])
    assert told.exit_code == 0 and "overlap: 1 pair of clips; 2 rows of" in told.stdout
    assert CliRunner().invoke(cli.app, ["overlap", path, *index, "--refuse"]).exit_code == 1
    path = rows_file(wavs / "train.jsonl", rows[:2])
    assert CliRunner().invoke(cli.app, ["overlap", path, *index, "--refuse"]).exit_code == 0


def test_order_and_processes_do_not_matter(tmp_path):
    train = [raw(f"t{n}", flac(scene(n) / 2), source_id=f"r{n % 5}") for n in range(40)]
    evaluation = [raw(f"e{n}", flac(scene(n)), source_id=f"r{n}") for n in range(30, 50)]
    one = find_overlap(train, evaluation, folder=tmp_path / "one")
    for rows in (train, evaluation):
        random.Random(0).shuffle(rows)
    other = find_overlap(train, evaluation, folder=tmp_path / "two", num_proc=2)
    assert len(one.pairs) == 10
    assert ids(one) == ids(other)
    assert [pair.match for pair in one.pairs] == [pair.match for pair in other.pairs]


def test_broken_recordings_are_named_and_counted_and_the_rest_is_compared(tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF but no sound")
    whole = flac(scene(1))
    train = [
        raw("gone", str(tmp_path / "gone.wav")),
        raw("noise", str(tmp_path / "noise.wav")),
        raw("cut", whole[: len(whole) // 2]),
        raw("folder", str(tmp_path)),
        raw("good", flac(scene(0) / 2)),
    ]
    found = find_overlap(train, [raw("e", flac(scene(0)))], folder=tmp_path / "prints")
    assert ids(found) == [("good", "e", ("sound",))]
    told = found.summary()
    assert "not compared, of the training set: 4 problems:" in told
    assert "list:1: audio" in told and "gone.wav" in told
    assert "list:2: audio" in told and "noise.wav" in told
    assert "list:3: audio" in told
    assert "list:4: audio" in told and "is a folder, not a file" in told


def test_fingerprints_are_made_once_and_again_for_another_content(tmp_path, monkeypatch):
    rows = [raw("a", flac(scene(0))), raw("b", flac(STEADY["tone"]))]
    first = find_overlap(rows, folder=tmp_path)
    monkeypatch.setattr("audiollm.curation.overlap.fingerprint", lambda _: pytest.fail("made again"))
    assert find_overlap(rows[::-1], folder=tmp_path).summary() == first.summary()
    with pytest.raises(pytest.fail.Exception):
        find_overlap([*rows, raw("c", flac(scene(1)))], folder=tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "bits.npy",
        "strong.npy",
        "starts.npy",
        "about.json",
    }


@pytest.mark.parametrize("wrong", [False, True])
def test_refusing_fails_too_where_a_recording_could_not_be_compared(wavs, wrong):
    rows = [raw(str(n), f"{n}.wav") for n in range(3)] + [raw("gone", "gone.wav")] * wrong
    path = rows_file(wavs / "train.jsonl", rows)
    done = CliRunner().invoke(cli.app, ["overlap", path, "--index", str(wavs / "prints"), "--refuse"])
    assert done.exit_code == wrong and "overlap: 0 pairs" in done.output
    assert ("not compared, of" in done.output) == wrong


def test_a_damaged_folder_of_fingerprints_is_refused_by_name(tmp_path):
    rows = [raw("a", flac(scene(0)))]
    find_overlap(rows, folder=tmp_path)
    (bits,) = tmp_path.rglob("bits.npy")
    bits.write_bytes(bits.read_bytes()[:-4])
    with pytest.raises(ValueError, match=f"{bits.parent} holds no fingerprints, or damaged ones .*; delete it"):
        find_overlap(rows, folder=tmp_path)


def test_names_of_sources_are_found_across_sets(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def row(name: str, number: int, source: str, source_id: str | None) -> dict[str, Any]:
        audio.write(tmp_path / name, scene(number), MADE_RATE)
        return raw(name, str(tmp_path / name), source=source, **({"source_id": source_id} if source_id else {}))

    train = [
        row("a/Yr1nicOVtvkQ.flac", 0, "audioset", None),
        row("a/1-100032-A-0.flac", 1, "esc50", "1-100032-A-0.wav"),
        row("a/00012.flac", 2, "one", "12"),
        row("a/84-121123-0000.flac", 3, "mine", None),
        row("a/x1.flac", 4, "set", "same"),
    ]
    evaluation = [
        row("b/r1nicOVtvkQ_130.flac", 10, "audiocaps", None),
        row("b/100032.flac", 11, "fsd50k", "100032"),
        row("b/00012.flac", 12, "two", "12"),
        row("b/84-121123-0000.flac", 13, "theirs", None),
        row("b/x2.flac", 14, "set", "same"),
    ]
    found = find_overlap(train, evaluation, folder=tmp_path / "prints")
    assert sorted((str(one)[2:], str(other)[2:], *kinds) for one, other, kinds in ids(found)) == [
        ("1-100032-A-0.flac", "100032.flac", "freesound"),
        ("84-121123-0000.flac", "84-121123-0000.flac", "file name"),
        ("Yr1nicOVtvkQ.flac", "r1nicOVtvkQ_130.flac", "youtube"),
        ("x1.flac", "x2.flac", "source_id"),
    ]
    assert found.count(("sound", "content")) == 0


def test_plain_numbers_and_words_with_numbers_are_no_names():
    for name in ("train-00012.wav", "clip3.flac", "0001.wav"):
        row = parse_row(raw("a", name))
        assert not names_of(row, row.clips[0])


def test_the_report_names_both_origins(tmp_path):
    rows = tmp_path / "train.jsonl"
    audio.write(tmp_path / "one.flac", scene(0), MADE_RATE)
    rows.write_text(json.dumps(raw("a", "one.flac")) + "\n")
    found = find_overlap(str(rows), [raw("e", flac(scene(0)[8_000:]))], folder=tmp_path / "prints")
    found.write(tmp_path / "report.jsonl")
    (line,) = map(json.loads, Path(tmp_path / "report.jsonl").read_text().splitlines())
    assert line["train"]["origin"] == f"{rows}:1" and line["evaluation"]["origin"] == "list:1"
    assert line["found"] == ["sound"] and line["offset_s"] == pytest.approx(-0.5, abs=0.04)
