"""Figures about rows: those counted by hand, the same for any number of processes, whole when a recording is broken."""

import gc
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
from rich.console import Console

from audiollm.conversation import AudioPart, Message, Row, TextPart
from audiollm.curation import inspecting
from audiollm.curation.inspecting import Distinct, Reservoir, Sample, Tally, inspect_rows, parse_sound
from audiollm.curation.levels import is_clipped
from audiollm.report import inspection
from audiollm.report.figures import visible
from audiollm.report.inspection import (
    Histogram,
    bars,
    plain,
    print_inspection,
    render_inspection,
    waveform,
    write_inspection,
)

RATE = 16_000
SCRIPT = "<script>document.title = 'taken'</script>"


def sine(amplitude: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def raw(number: int, clip: dict, question: str, answer: str, task: str = "kind", **about) -> dict:
    content = [{"type": "audio", **clip}, {"type": "text", "text": question}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"id": f"row-{number}", "task": task, "source": "made", "messages": turns} | about


def write_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Seven rows about four recordings, of which one is broken, and a line that is no row."""
    folder = tmp_path_factory.mktemp("rows")
    soundfile.write(folder / "loud.wav", np.clip(sine(2.0, 2.0), -1, 1), RATE)
    soundfile.write(folder / "quiet.wav", np.stack([sine(0.0003, 40, 8000)] * 2, axis=1), 8000, subtype="FLOAT")
    soundfile.write(folder / "usual.flac", sine(0.1, 4.0), RATE)
    (folder / "broken.wav").write_bytes(b"RIFF")
    loud, quiet, usual, broken = ({"audio": name} for name in ("loud.wav", "quiet.wav", "usual.flac", "broken.wav"))
    lines = [
        raw(1, loud, "What?", "Dog.", language="en"),
        raw(2, loud, "What?", "dog", language="en"),
        raw(3, quiet, "What?", "cat", source="other", license="mit"),
        raw(4, usual, "What?", "dog"),
        raw(5, usual, "Tell it.", f"a tone {SCRIPT} of four seconds", task="caption"),
        raw(6, broken, "What?", "rain"),
        raw(7, usual | {"start": 1.0, "end": 2.0}, "What?", "dog"),
        '{"messages": 3}',
    ]
    return write_lines(folder / "rows.jsonl", lines)


@pytest.fixture(scope="module")
def inspected(rows):
    return inspect_rows(str(rows))


@pytest.fixture(scope="module")
def found(inspected):
    return inspected[0]


def test_sums_are_those_counted_by_hand(found):
    assert (found.rows, found.recordings, found.unknown_length) == (7, 5, 1)
    assert found.hours * 3600 == pytest.approx(2 + 40 + 4 + 1)
    assert found.hours_heard * 3600 == pytest.approx(2 + 2 + 40 + 4 + 4 + 1)
    assert found.token_unit == "words"
    assert found.tokens == 6 + len(f"a tone {SCRIPT} of four seconds".split())


def test_groups_are_those_counted_by_hand(found):
    by = {name: {group.name: group for group in groups} for name, groups in found.groups.items()}
    assert {name: group.rows for name, group in by["source"].items()} == {"made": 6, "other": 1}
    assert {name: group.rows for name, group in by["language"].items()} == {"(not said)": 5, "en": 2}
    assert by["language"]["en"].recordings == 1
    assert by["language"]["en"].hours * 3600 == pytest.approx(2)
    assert by["language"]["en"].hours_heard * 3600 == pytest.approx(4)
    assert by["license"]["mit"].tokens == 1
    for groups in found.groups.values():
        assert sum(group.rows for group in groups) == found.rows
        assert sum(group.tokens for group in groups) == found.tokens


def test_the_prior_is_the_share_of_the_commonest_answer(found):
    kind = found.priors[0]
    assert (kind.task, kind.rows, kind.answer, kind.distinct) == ("kind", 6, "dog", 3)
    assert kind.share == pytest.approx(4 / 6)


def test_questions_are_counted_by_task_and_repetitions_by_recording(found):
    kind, caption = found.questions
    assert (kind.task, kind.distinct, kind.commonest) == ("kind", 1, (("What?", 6),))
    assert caption.commonest == (("Tell it.", 1),)
    assert found.repeated == 2  # rows 1 and 2; row 7 asks about another part of what row 4 asks about


def test_bins_sum_to_what_was_counted(found):
    assert sum(found.lengths.counts) + found.unknown_length == found.recordings
    assert sum(found.answers.counts) == found.rows
    assert sum(found.sound.loudness.counts) == found.sound.recordings
    lengths = dict(zip(found.lengths.labels, found.lengths.counts, strict=True))
    assert {label: count for label, count in lengths.items() if count} == {
        "1 to 2 s": 1,
        "2 to 5 s": 2,
        "30 to 60 s": 1,
    }
    assert found.answers.counts[1] == 6
    assert (found.beyond_window, found.window_s) == (1, 30.0)


def test_sound_is_judged_by_its_samples(found):
    heard = found.sound
    assert (heard.recordings, heard.clipped, heard.silent, heard.shortened) == (4, 1, 1, 0)
    assert heard.rates == {"16000 Hz": 3, "8000 Hz": 1}
    assert heard.channels == {"1": 3, "2": 1}
    loudness = dict(zip(heard.loudness.labels, heard.loudness.counts, strict=True))
    assert loudness["-24 to -20 dBFS"] == 2  # 0.1 / sqrt(2) is -23.0 dBFS
    assert loudness["-76 to -72 dBFS"] == 1  # 0.0003 / sqrt(2) is -73.5 dBFS


def test_a_peak_at_full_scale_is_not_clipping_and_three_samples_in_a_row_are():
    assert not is_clipped(np.array([0.5, 1.0, 1.0, 0.5], np.float32))
    assert is_clipped(np.array([0.5, 1.0, 32767 / 32768, 1.0], np.float32))
    assert is_clipped(np.array([-1.0, -1.0, -1.0], np.float32))
    assert not is_clipped(np.array([1.0], np.float32))


def test_silence_has_a_bin(tmp_path):
    soundfile.write(tmp_path / "nothing.wav", np.zeros(RATE), RATE)
    found, _ = inspect_rows(str(write_lines(tmp_path / "rows.jsonl", [raw(1, {"audio": "nothing.wav"}, "?", "no")])))
    assert (found.sound.silent, found.sound.loudness.counts[0]) == (1, 1)


def test_what_is_broken_is_counted_and_named_and_the_rest_is_told(found, rows):
    assert found.broken.count == 1
    assert found.broken.first[0][0] == str(rows.with_name("broken.wav"))
    assert found.bad_rows.count == 1
    assert found.bad_rows.first[0][0] == f"{rows}:8"


def test_damage_behind_a_good_header_is_found_by_decoding_and_a_missing_file_without(tmp_path):
    soundfile.write(tmp_path / "good.flac", np.random.default_rng(0).uniform(-0.5, 0.5, RATE), RATE)
    content = bytearray((tmp_path / "good.flac").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    (tmp_path / "damaged.flac").write_bytes(content)
    lines = [
        raw(n, {"audio": f"{name}.flac", "duration": 1.0}, "?", "no")
        for n, name in enumerate(("good", "damaged", "gone"))
    ]
    found, _ = inspect_rows(str(write_lines(tmp_path / "rows.jsonl", lines)), sound=None)
    assert [Path(place).name for place, _ in found.broken.first] == ["gone.flac", "damaged.flac"]
    assert (found.rows, found.sound.recordings) == (3, 1)


def test_what_stands_in_the_place_of_a_recording_is_named(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    lines = [raw(n, {"audio": f"{name}.wav"}, "?", "no") for n, name in enumerate(("folder", "pipe", "gone"))]
    found, _ = inspect_rows(str(write_lines(tmp_path / "rows.jsonl", lines)), sound=None)
    assert [cause for _, cause in found.broken.first] == [
        "is a folder, not a file",
        "is not an ordinary file",
        "there is no such file; paths count from the folder of the rows",
    ]


def test_several_processes_find_what_one_finds(rows, inspected):
    found, shown = inspected
    others, also_shown = inspect_rows(str(rows), num_proc=2)
    assert others.to_json() == found.to_json()
    assert also_shown == shown


def test_embedded_sound_is_drawn_without_being_kept(tmp_path):
    parts = [AudioPart(soundfile_bytes(0.1 + 0.01 * number)) for number in range(30)]
    sample = Sample(5, 0, tmp_path)
    for number, part in enumerate(parts):
        sample.offer(inspecting.key_of(number), part, f"row {number}")
        sample.offer(inspecting.key_of(number), part, f"row {number}")
    drawn = sample.clips()
    assert len(drawn) == len({key for key, _, _ in drawn}) == 5
    assert all(isinstance(clip.audio, str) for _, _, clip in drawn)
    assert len(list(tmp_path.iterdir())) == 5
    assert all(inspecting.hear_clip(clip).cause is None for _, _, clip in drawn)


def soundfile_bytes(amplitude: float) -> bytes:
    return inspecting.audio.encode(sine(amplitude, 0.1), RATE)


def test_a_sample_does_not_depend_on_the_order_of_the_rows_and_is_even(tmp_path):
    keys = [inspecting.key_of(number) for number in range(1000)]
    drawn = []
    for order in (keys, keys[::-1]):
        sample = Sample(200, 0, tmp_path)
        for key in order:
            sample.offer(key, AudioPart("a.wav"), "a.wav")
        drawn.append({key for key, _, _ in sample.clips()})
    assert drawn[0] == drawn[1]
    first_half = sum(key in drawn[0] for key in keys[:500])
    assert 70 < first_half < 130  # 100 expected, standard deviation 6


def test_a_sound_sample_of_none_decodes_nothing(rows):
    found, _ = inspect_rows(str(rows), sound=0)
    assert found.sound.recordings == 0
    assert found.rows == 7


def test_no_row_is_one_sentence(tmp_path):
    for content in ("", '{"messages": 3}\n'):
        (tmp_path / "rows.jsonl").write_text(content)
        with pytest.raises(ValueError, match=r"there is no row to inspect.*rows.jsonl") as error:
            inspect_rows(str(tmp_path / "rows.jsonl"))
        assert "\n" not in str(error.value)


def test_tokens_are_those_of_a_tokenizer_when_one_is_named(rows, tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    found, _ = inspect_rows(str(rows), tokenizer=str(tmp_path), sound=0)
    assert found.token_unit == f"tokens of {tmp_path}"
    answers = ["Dog.", "dog", "cat", "dog", f"a tone {SCRIPT} of four seconds", "rain", "dog"]
    assert found.tokens == sum(len(tokenizer.encode(answer, add_special_tokens=False)) for answer in answers)


def test_a_folder_without_a_tokenizer_is_one_sentence(rows, tmp_path):
    with pytest.raises(ValueError, match="has no tokenizer") as error:
        inspect_rows(str(rows), tokenizer=str(tmp_path))
    assert "\n" not in str(error.value)


def test_the_number_of_recordings_to_decode_is_a_number_or_all():
    assert (parse_sound("all"), parse_sound("12")) == (None, 12)
    with pytest.raises(ValueError, match="sound=some"):
        parse_sound("some")


def test_unsupervised_answers_are_no_supervised_tokens(tmp_path):
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one two three", "loss": False},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "four five"},
    ]
    found, _ = inspect_rows(str(write_lines(tmp_path / "rows.jsonl", [{"messages": turns}])))
    assert found.tokens == 2
    assert found.recordings == 0


# --- counting without keeping -----------------------------------------------------------------------------------------


def test_distinct_counts_like_a_counter():
    numbers = np.random.default_rng(0).integers(0, 3000, 20_000).tolist()
    distinct = Distinct()
    for number in numbers:
        distinct.add(number, number / 2)
    counted = Counter(numbers)
    assert distinct.counts.tolist() == [counted[number] for number in sorted(counted)]
    assert distinct.values.tolist() == [number / 2 for number in sorted(counted)]


def test_the_commonest_text_is_found_among_more_rarities_than_are_kept():
    tally = Tally()
    for number in range(3 * inspecting.MOST_TEXTS):
        tally.add(f"rare {number}")
        if number % 10 == 0:
            tally.add("common")
    assert tally.commonest(1) == [("common", 3 * inspecting.MOST_TEXTS // 10)]
    assert len(tally._texts) <= inspecting.MOST_TEXTS


def test_a_reservoir_gives_each_row_the_same_chance():
    turns = (Message("assistant", (TextPart("yes"),)),)
    drawn: Counter[str] = Counter()
    for seed in range(600):
        reservoir = Reservoir(3, seed)
        for number in range(9):
            reservoir.offer(Row(turns, id=str(number)))
        drawn.update(str(row.id) for row in reservoir.rows)
    assert set(drawn) == set(map(str, range(9)))
    assert all(140 < count < 260 for count in drawn.values())  # 200 expected, standard deviation 12


def test_a_field_with_a_value_for_each_row_is_put_together(tmp_path):
    lines = [
        {"source": f"s{n}", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}]}
        for n in range(inspecting.MOST_GROUPS + 50)
    ]
    found, _ = inspect_rows(str(write_lines(tmp_path / "rows.jsonl", lines)))
    assert len(found.groups["source"]) == inspecting.MOST_GROUPS + 1
    assert found.groups["source"][0].name == inspecting.OTHERS
    assert found.groups["source"][0].rows == 50
    assert any("source" in note for note in found.notes)


def test_no_list_of_rows_is_held(tmp_path, monkeypatch):
    """Looked at while rows go by, 20,000 of them: the thirty that are drawn are alive, and the one at hand."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(20_000):
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": f"answer-{number}"}]
            file.write(json.dumps({"messages": turns}) + "\n")
    before = alive(Row)
    seen = []

    def count(text: str) -> int:
        if text.endswith("9999"):
            seen.append((alive(Row), alive(dict)))
        return 1

    monkeypatch.setattr(inspecting, "count_words", count)
    found, shown = inspect_rows(str(path))
    assert (found.rows, len(shown), found.priors[0].distinct) == (20_000, 30, 20_000)
    (first_rows, first_dicts), *_, (last_rows, last_dicts) = seen
    assert first_rows == last_rows <= before + 32
    assert last_dicts <= first_dicts + 1000


def alive(kind: type) -> int:
    """Objects of a type that somebody holds."""
    return sum(type(one) is kind for one in gc.get_objects())


# --- page and tables --------------------------------------------------------------------------------------------------


def test_text_of_rows_is_escaped_and_the_page_names_no_other_place(inspected):
    html = render_inspection(*inspected)
    assert SCRIPT not in html
    assert "&lt;script&gt;document.title" in html
    assert html.count("<script") == 1
    assert "http://" not in html and "https://" not in html
    assert html.count("<audio ") == 6
    assert html.count('class="wave"') == 6


def test_what_is_learned_is_marked_and_only_that(tmp_path):
    turns = (
        Message("user", (TextPart("one"),)),
        Message("assistant", (TextPart("unlearned"),), loss=False),
        Message("user", (TextPart("two"),)),
        Message("assistant", (TextPart("learned"),)),
    )
    found, _ = inspect_rows([{"messages": [{"role": "assistant", "content": "a"}]}])
    html = render_inspection(found, [Row(turns)])
    assert "<mark>learned</mark>" in html
    assert "<mark>unlearned" not in html


def test_thirty_noisy_rows_of_half_a_minute_fit_into_fifteen_megabytes(tmp_path, found, monkeypatch):
    noise = np.random.default_rng(0).uniform(-1, 1, 40 * RATE).astype(np.float32)
    view = inspection.clip_view(AudioPart((noise, RATE)), inspection.PLAYER_SECONDS)
    monkeypatch.setattr(inspection, "clip_view", lambda *_: view)
    turns = (Message("user", (AudioPart((noise, RATE)),)), Message("assistant", (TextPart("noise " * 5000),)))
    path = write_inspection(tmp_path / "page.html", found, [Row(turns, id=str(number)) for number in range(30)])
    assert 5_000_000 < path.stat().st_size < 15_000_000
    html = path.read_text()
    assert "first 30 s of 40 s" in html
    assert "characters more" in html
    assert html.count("<audio ") + html.count("fills the page") == 30
    assert html.count("<audio ") > 10


def test_what_does_not_fit_into_the_page_is_told(found, monkeypatch):
    monkeypatch.setattr(inspection, "SOUND_BYTES", 1000)
    turns = (Message("user", (AudioPart((sine(0.5, 1), RATE)),)), Message("assistant", (TextPart("a"),)))
    html = render_inspection(found, [Row(turns)])
    assert "fills the page" in html
    assert "<audio " not in html


def test_a_page_of_hostile_text_can_be_written(tmp_path, found):
    turns = (Message("user", (TextPart("\ud800 \x1b[2J"),)), Message("assistant", (TextPart("yes"),)))
    assert write_inspection(tmp_path / "page.html", found, [Row(turns)]).is_file()


HIDDEN = "\0\x1b[2J\r\x9b\u202egnp\u2066\u200b\ud800\U000e0041"
SHOWN = r"\x00\x1b[2J\r\x9b\u202egnp\u2066\u200b\ud800\U000e0041"


def test_what_a_text_hides_is_in_sight_on_the_page_and_in_the_terminal(tmp_path):
    lines = [raw(1, {"audio": f"{HIDDEN}.wav"}, HIDDEN, HIDDEN, task=HIDDEN, license=HIDDEN) | {"id": HIDDEN}, "{"]
    found, shown = inspect_rows(str(write_lines(tmp_path / "rows.jsonl", lines)))
    page = write_inspection(tmp_path / "page.html", found, shown).read_text(encoding="utf-8")
    assert not set(HIDDEN) & set(page) - set("[2Jgnp")
    assert page.count(SHOWN) >= 8
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_inspection(found, console)
    text = console.export_text()
    assert not set(HIDDEN) & set(text) - set("[2Jgnp") and SHOWN.replace(r"\r", " ") in text


def test_a_text_that_hides_nothing_stands_as_it_is():
    text = "line\n\ttab é 日本　語 שלום 👩\u200d🔬 می\u200cخواهم \\x1b"
    assert visible(text) == text


def test_the_waveform_spans_what_the_samples_span():
    points = str(waveform(np.array([0.5, -1.0, 1.0], np.float32)))
    assert "0.0,25.0" in points and "80.0,100.0" in points and "160.0,0.0" in points


def test_empty_bins_between_others_are_shown_and_those_outside_are_not():
    shown = bars(Histogram(("a", "b", "c", "d", "e"), (0, 4, 0, 2, 0)))
    assert [(bar["label"], bar["width"]) for bar in shown] == [("b", 100.0), ("c", 0.0), ("d", 50.0)]
    assert bars(Histogram(("a",), (0,))) == []


def test_the_terminal_shows_the_figures_and_no_control_characters(tmp_path):
    answer = "\x1b[2J[red]wiped"
    lines = [{"task": "[bold]t", "messages": [{"role": "assistant", "content": answer}]}, "{"]
    found, _ = inspect_rows(str(write_lines(tmp_path / "rows.jsonl", lines)))
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_inspection(found, console)
    text = console.export_text()
    assert "[red]wiped" in text and "[bold]t" in text and "100.0%" in text
    assert "\x1b" not in text
    assert "bad rows: 1" in text
    assert ": 1 row, 0 recordings, 0 s" in text


def test_a_cell_is_one_short_line():
    assert plain("a\nb\ud800") == "a b\\ud800"
    assert len(plain("x" * 100)) == 60


def test_all_figures_are_json(found):
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["rows"] == 7
    assert told["shares"]["clipped"] == 0.25
    assert told["shares"]["repeated"] == pytest.approx(2 / 7)
