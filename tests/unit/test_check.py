"""The check of rows: what is wrong is named with its place, and all else comes through unchanged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from converters import RATE, tone
from pyarrow import parquet

from audiollm import audio as sound
from audiollm.conversation import AudioPart, Message, Row, RowError, TextPart, write_rows
from audiollm.curation import check as checking
from audiollm.curation.check import WRONG_DURATION, check, kind_of
from audiollm.data.sources import load_rows

NUM_ROWS = 30


def row_about(folder: Path, number: int, **about) -> Row:
    """A row about a recording of a second, which is written."""
    path = folder / "clips" / f"{number}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    sound.write(path, tone(number), RATE)
    clip = AudioPart(str(path), duration=1.0)
    turns = (Message("user", (clip, TextPart("What?"))), Message("assistant", (TextPart(f"Tone {number}."),)))
    return Row(turns, id=f"row-{number}", source="tones", **about)


def with_clip(row: Row, **about) -> Row:
    """The row with its clip changed."""
    user, assistant = row.messages
    return replace(
        row, messages=(replace(user, content=(replace(user.clips[0], **about), *user.content[1:])), assistant)
    )


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(out: Path) -> tuple[bytes, bytes]:
    return (out / "clean.jsonl").read_bytes(), (out / "quarantine.jsonl").read_bytes()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(checking, "ROWS_A_CHUNK", 4)


@pytest.fixture
def good(tmp_path) -> Path:
    write_rows(tmp_path / "rows.jsonl", [row_about(tmp_path, number) for number in range(NUM_ROWS)])
    return tmp_path / "rows.jsonl"


def cut_off(path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
    sound.write(path, noise, RATE)
    path.write_bytes(path.read_bytes()[:-20_000])


def damaged(path: Path) -> dict[int, tuple[str, str, str]]:
    """Every kind of damage, each in a row of its own; line -> found, field, a part of the cause."""
    clips = path.parent / "clips"
    (clips / "2.flac").unlink()
    (clips / "5.flac").write_bytes(b"junk" * 100)
    cut_off(clips / "8.flac")
    (clips / "11.flac").write_bytes(b"")
    lines = path.read_text().splitlines()
    lines[13] = lines[13].replace("Tone 13.", " ")
    lines[14] = lines[14][:-5]
    lines[16] = lines[16].replace("row-16", "row-3")
    lines[19] = lines[19].replace('"duration"', '"start": 7.0, "duration"')
    lines[20] = '["no", "object"]'
    lines[22] = lines[22].replace('"role": "user"', '"role": "robot"')
    path.write_text("\n".join(lines) + "\n")
    clip = "messages[0].content[0].audio"
    return {
        3: ("hearing", clip, "no such file"),
        6: ("hearing", clip, "5.flac"),
        9: ("hearing", clip, "cut off or damaged"),
        12: ("hearing", clip, "empty"),
        14: ("reading", "messages[1].content", "the answer is empty"),
        15: ("reading", "", "broken JSON"),
        17: ("reading", "id", "'row-3' is the id of an earlier row"),
        20: ("hearing", clip, "start=7.0 s is beyond its end at 1.000 s"),
        21: ("reading", "", "a row is an object, not list"),
        23: ("reading", "messages[0].role", "unknown role 'robot'"),
    }


def test_each_damage_is_named_with_its_line_and_cause_and_all_other_rows_are_unchanged(good, tmp_path):
    before = load_rows(str(good), strict=True)
    expected = damaged(good)
    checked = check(str(good), tmp_path / "out")
    told = lines_of(tmp_path / "out" / "quarantine.jsonl")
    assert [one["origin"] for one in told] == [f"{good}:{line}" for line in expected]
    for one, (found, field, cause) in zip(told, expected.values(), strict=True):
        assert (one["stage"], one["found"], one["field"]) == ("check", found, field)
        assert cause in one["cause"]
    assert [one["row"] for one in told][:4] == ["row-2", "row-5", "row-8", "row-11"]
    after = load_rows(str(checked.clean), strict=True, check_files=True)
    assert after == [row for number, row in enumerate(before, start=1) if number not in expected]
    assert (checked.rows, checked.good, checked.left_out.total()) == (NUM_ROWS, NUM_ROWS - len(expected), len(expected))
    assert checked.hours == pytest.approx(checked.good / 3600)


def test_good_rows_come_through_byte_for_byte_and_nothing_is_left_behind(good, tmp_path):
    checked = check(str(good), tmp_path)
    assert checked.clean.read_bytes() == good.read_bytes()
    assert not checked.left_out and checked.quarantine.read_bytes() == b""
    assert {path.name for path in tmp_path.iterdir()} == {"clips", "rows.jsonl", "clean.jsonl", "quarantine.jsonl"}
    assert "30 rows: 30 good, with 30 s of sound, each row's counted" in checked.summary()


def test_several_processes_write_what_one_writes(good, tmp_path):
    damaged(good)
    one, several = (check(str(good), tmp_path / str(n), num_proc=n) for n in (1, 2))
    assert written(tmp_path / "1") == written(tmp_path / "2")
    assert replace(one, clean=several.clean, quarantine=several.quarantine) == several


def stop_at(monkeypatch, number: int) -> list[int]:
    """Stop the check at the row that comes as this one; the lines of all rows that come."""
    met: list[int] = []
    judged = checking.judged

    def stopped(job, place, *rest):
        met.append(int(place.rpartition(":")[2]))
        if len(met) == number:
            raise KeyboardInterrupt
        return judged(job, place, *rest)

    monkeypatch.setattr(checking, "judged", stopped)
    return met


def test_a_check_that_was_stopped_goes_on_where_it_was(good, tmp_path, monkeypatch):
    damaged(good)
    check(str(good), tmp_path / "whole")
    met = stop_at(monkeypatch, 11)
    with pytest.raises(KeyboardInterrupt):
        check(str(good), tmp_path / "out")
    assert not (tmp_path / "out" / "clean.jsonl").exists()
    check(str(good), tmp_path / "out")
    assert written(tmp_path / "out") == written(tmp_path / "whole")
    assert met[11:] == list(range(9, NUM_ROWS + 1))


def test_a_second_check_into_a_folder_is_refused_and_the_first_is_not_disturbed(good, tmp_path, monkeypatch):
    damaged(good)
    check(str(good), tmp_path / "whole")
    judged = checking.judged

    def beside(*about):
        monkeypatch.setattr(checking, "judged", judged)
        for headers in (False, True):
            with pytest.raises(ValueError, match="out: another run writes there; wait for it, or name another --out"):
                check(str(good), tmp_path / "out", headers=headers)
        return judged(*about)

    monkeypatch.setattr(checking, "judged", beside)
    check(str(good), tmp_path / "out")
    assert checking.judged is judged
    assert written(tmp_path / "out") == written(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


@pytest.mark.parametrize("change", ["file", "option"])
def test_a_stopped_check_of_other_rows_or_with_other_options_begins_anew(good, tmp_path, monkeypatch, change):
    met = stop_at(monkeypatch, 11)
    with pytest.raises(KeyboardInterrupt):
        check(str(good), tmp_path / "out")
    if change == "file":
        good.write_text(good.read_text().replace("Tone 1.", "Tone A."))
    checked = check(str(good), tmp_path / "out", headers=change == "option")
    assert met[11:] == list(range(1, NUM_ROWS + 1))
    assert ("Tone A." in checked.clean.read_text()) == (change == "file")


def test_a_limit_counts_the_rows_that_are_read(good, tmp_path):
    damaged(good)
    checked = check(str(good), tmp_path / "out", limit=6)
    assert (checked.rows, checked.good) == (6, 4)


def test_a_recording_is_decoded_once_a_chunk_and_headers_alone_miss_damage_in_it(tmp_path, monkeypatch):
    row = row_about(tmp_path, 0)
    write_rows(tmp_path / "rows.jsonl", [replace(row, id=str(number)) for number in range(6)])
    heard = []
    load = sound.load
    monkeypatch.setattr(
        checking.sound, "load", lambda source, *_, **about: heard.append(source) or load(source, *_, **about)
    )
    assert check(str(tmp_path / "rows.jsonl"), tmp_path / "out").good == 6
    assert len(heard) == 2  # chunks of four rows
    cut_off(tmp_path / "clips" / "0.flac")
    heard.clear()
    assert check(str(tmp_path / "rows.jsonl"), tmp_path / "out").good == 0
    assert len(heard) == 2
    heard.clear()
    assert check(str(tmp_path / "rows.jsonl"), tmp_path / "out", headers=True).good == 6
    assert not heard


def test_a_duration_that_is_not_the_recordings_is_put_right_counted_and_named(good, tmp_path):
    rows = lines_of(good)
    for number, wrong in ((2, 17.0), (5, 0.5)):
        rows[number]["messages"][0]["content"][0]["duration"] = wrong
    rows[4]["messages"][0]["content"][0]["duration"] = 1.05  # as a header may say
    changed = good.with_name("durations.jsonl")
    changed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked = check(str(changed), tmp_path / "out")
    assert checked.good == NUM_ROWS and checked.noticed == {WRONG_DURATION: 2}
    assert checked.hours * 3600 == pytest.approx(NUM_ROWS + 0.05, abs=0.02)
    named = [one["origin"] for one in lines_of(tmp_path / "out" / "noticed.jsonl")]
    assert named == [f"{changed}:3", f"{changed}:6"]


def test_silent_and_clipped_recordings_are_kept_counted_and_named(good, tmp_path):
    out = tmp_path / "out"
    assert not check(str(good), out).noticed and not (out / "noticed.jsonl").exists()
    sound.write(tmp_path / "clips/3.flac", 1e-4 * tone(3), RATE)
    sound.write(tmp_path / "clips/7.flac", np.clip(9 * tone(7), -1, 1), RATE)
    sound.write(tmp_path / "clips/8.flac", np.zeros(RATE, np.float32), RATE)
    checked = check(str(good), out)
    silent, clipped = "silent: below -60 dBFS", "clipped: 3 samples or more in a row at full scale"
    assert checked.good == NUM_ROWS and checked.noticed == {silent: 2, clipped: 1}
    assert f"        2  {silent}" in checked.summary() and str(out / "noticed.jsonl") in checked.summary()
    found = [(one["origin"], one["row"], one["field"], one["noticed"]) for one in lines_of(out / "noticed.jsonl")]
    clip = "messages[0].content[0].audio"
    rows = [(3, silent), (7, clipped), (8, silent)]
    assert found == [(f"{good}:{row + 1}", f"row-{row}", clip, what) for row, what in rows]
    assert not check(str(good), tmp_path / "headers", headers=True).noticed  # which does not listen


def test_a_long_recording_is_decoded_in_windows_that_leave_nothing_out(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "WINDOW_S", 0.4)
    decoded = []
    load = sound.load

    def told(source, rate, *, start, end):
        decoded.append(load(source, rate, start=start, end=end))
        return decoded[-1]

    monkeypatch.setattr(checking.sound, "load", told)
    sound.write(tmp_path / "a.wav", tone(0, 1.3), RATE)
    assert checking.decoded(str(tmp_path / "a.wav")).seconds == 1.3
    assert [len(one) / RATE for one in decoded] == pytest.approx([0.4, 0.4, 0.5])
    cut_off(tmp_path / "b.flac")
    with pytest.raises(sound.AudioError, match="cut off or damaged"):
        checking.decoded(str(tmp_path / "b.flac"))


@pytest.mark.parametrize(
    ("times", "seconds"),
    [({}, 1.0), ({"start": 0.25}, 0.75), ({"start": 0.25, "end": 0.5}, 0.25), ({"end": 1.02}, 1.0)],
)
def test_a_missing_duration_is_that_of_the_cut(tmp_path, times, seconds):
    write_rows(tmp_path / "rows.jsonl", [with_clip(row_about(tmp_path, 0), duration=None, **times)])
    [row] = load_rows(str(check(str(tmp_path / "rows.jsonl"), tmp_path / "out").clean), strict=True)
    assert row.clips[0].duration == seconds
    assert (row.clips[0].start, row.clips[0].end) == (times.get("start"), times.get("end"))


def test_a_cut_that_ends_beyond_its_recording_is_left_out(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [with_clip(row_about(tmp_path, 0), end=2.0)])
    checked = check(str(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert dict(checked.left_out) == {"messages[].content[].audio: end=… s is beyond its end at … s": 1}


def test_foreign_rows_become_rows_of_ours(tmp_path):
    row = row_about(tmp_path, 0)
    foreign = {
        "messages": [{"role": "user", "content": "<audio>What?"}, {"role": "assistant", "content": "Tone 0."}],
        "audios": ["clips/0.flac"],
    }
    broken = foreign | {"messages": [{"role": "user", "content": "<audio><audio>?"}, foreign["messages"][1]]}
    odd = foreign | {"messages": 3}
    (tmp_path / "swift.jsonl").write_text("\n".join(map(json.dumps, (foreign, broken, odd))))
    checked = check(str(tmp_path / "swift.jsonl"), tmp_path)
    assert load_rows(str(checked.clean), format="rows", strict=True) == [replace(row, id=None, source=None)]
    assert lines_of(checked.clean)[0]["messages"][0]["content"][0]["audio"] == "clips/0.flac"
    assert [one["origin"][-1] for one in lines_of(checked.quarantine)] == ["2", "3"]


def test_ids_repeat_within_a_source_alone_and_may_be_kept(tmp_path):
    row = row_about(tmp_path, 0)
    rows = [with_clip(row, audio=str(tmp_path / "none.wav")), row, replace(row, source="other"), row]
    rows += [replace(row, id=None), replace(row, id=None)]
    write_rows(tmp_path / "rows.jsonl", rows)
    checked = check(str(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert [one["origin"][-1] for one in lines_of(checked.quarantine)] == ["1", "4"]
    kept = check(str(tmp_path / "rows.jsonl"), tmp_path / "out", keep_repeated=True)
    assert (kept.good, kept.repeated, kept.left_out.total()) == (5, 1, 1)


def test_sound_within_rows_is_heard_and_stays_there(tmp_path):
    messages = json.dumps([{"role": "user", "content": [{"type": "audio"}]}, {"role": "assistant", "content": "Hm."}])
    audios = [sound.encode(tone(0), RATE), b"junk"]
    parquet.write_table(
        pyarrow.table({"messages": [messages] * 2, "audios": [[one] for one in audios]}), tmp_path / "rows.parquet"
    )
    checked = check(str(tmp_path / "rows.parquet"), tmp_path / "out")
    [row] = load_rows(str(checked.clean), strict=True)
    assert row.clips[0].audio == audios[0] and row.clips[0].duration == 1.0
    assert lines_of(checked.quarantine)[0]["origin"] == f"{tmp_path / 'rows.parquet'}:2"


def test_rows_that_bring_much_sound_make_smaller_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "CHUNK_BYTES", 1000)
    placed = iter([(str(n), {"audio": [{"bytes": b"x" * 400}]}) for n in range(7)])
    assert [len(checking._some(placed, 100, [])) for _ in range(3)] == [3, 3, 1]


def test_a_file_that_cannot_be_read_on_is_named_and_the_others_are_checked(good, tmp_path):
    (tmp_path / "broken.json").write_text("[1, 2")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "notes.md").write_text("x")
    clips = tmp_path / "clips"
    (tmp_path / "quotes.csv").write_text(f'audio,question,answer\n{clips}/0.flac,a,b\n{clips}/1.flac,"a"x,b\n')
    checked = check(str(tmp_path / "*.*"), tmp_path / "out")
    assert checked.good == NUM_ROWS + 1 == checked.rows
    told = {Path(one["origin"]).name: one["cause"] for one in lines_of(checked.quarantine)}
    assert list(told) == ["broken.json", "empty.jsonl", "notes.md", "quotes.csv:3"]
    assert "broken JSON" in told["broken.json"] and "holds no row" in told["empty.jsonl"]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_strict_stops_at_the_first_bad_row(good, tmp_path, num_proc):
    damaged(good)
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: messages\[0\].*: no such file .*2\.flac") as error:
        check(str(good), tmp_path / "out", strict=True, num_proc=num_proc)
    assert "\n" not in str(error.value)
    sound.write(tmp_path / "clips" / "2.flac", tone(2), RATE)
    with pytest.raises(ValueError, match=r"rows\.jsonl:6"):  # what was mended is not bad any more
        check(str(good), tmp_path / "out", strict=True, num_proc=num_proc)


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ("nothing/*.jsonl", "no file matches"),
        ("nothing.jsonl", "there is no such file or folder"),
        ("hollow", "holds no recording"),
        ("shelf", r"holds no recording; for files of rows name them, as in .*shelf/\*\.parquet$"),
        ("yard", r"holds files of rows, and recordings without texts beside them; name the rows: .*yard/\*\.jsonl$"),
        ("binary.jsonl", r"binary\.jsonl: is no text file: it is not UTF-8; give rows as text, saved as UTF-8"),
        ("binary.json", r"binary\.json: is no text file"),
        ("void.jsonl", "holds no row"),
        ("rows.jsonl", "unknown format 'rowz'"),
        ("clean.jsonl", "would be read and written"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, rows, cause):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "void.jsonl").write_text("\n")
    (tmp_path / "clean.jsonl").write_text("{}\n")
    for name in ("shelf/rows.parquet", "shelf/prepared.json", "yard/rows.jsonl", "yard/clips/0.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("binary.jsonl", "binary.json"):
        sound.write(tmp_path / "0.wav", tone(0), RATE)
        (tmp_path / "0.wav").replace(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=cause) as error:
        check(str(tmp_path / rows), tmp_path, format="rowz" if "rowz" in cause else None)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_check_that_made_nothing_leaves_no_folder_and_takes_none_that_was_there(good, tmp_path, monkeypatch):
    damaged(good)
    good.write_text(good.read_text().split("\n", 2)[2])  # the third row, which is bad, comes first
    (tmp_path / "there").mkdir()
    for out in ("new/deep", "there"):
        with pytest.raises(ValueError, match=r"rows\.jsonl:1: .*no such file"):
            check(str(good), tmp_path / out, strict=True)
    assert not (tmp_path / "new").exists() and not any((tmp_path / "there").iterdir())
    stop_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):  # after a chunk, which is gone on with
        check(str(good), tmp_path / "new")
    assert (tmp_path / "new" / "check-parts" / "00000.json").exists()


def test_a_summary_counts_one_in_the_singular_and_tells_hours_from_a_hundredth_on(good, tmp_path):
    checked = check(str(good), tmp_path / "out", limit=1)
    assert checked.summary().startswith("1 row: 1 good, with 1 s of sound, each row's counted\n")
    checked.hours = 0.01
    assert "with 0.01 hours of sound" in checked.summary()


def test_a_folder_that_no_check_made_is_not_removed(good, tmp_path):
    (tmp_path / "check-parts").mkdir()
    (tmp_path / "check-parts" / "mine").write_text("x")
    with pytest.raises(ValueError, match="no check made it"):
        check(str(good), tmp_path)
    assert (tmp_path / "check-parts" / "mine").read_text() == "x"


def test_half_a_character_is_a_bad_row_and_no_crash(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [row_about(tmp_path, 0)])
    text = (tmp_path / "rows.jsonl").read_text()
    bad = text.replace("row-0", "\\ud83d")
    (tmp_path / "rows.jsonl").write_text(text + bad)
    checked = check(str(tmp_path / "rows.jsonl"), tmp_path / "out")
    [told] = lines_of(checked.quarantine)
    assert told["found"] == "reading" and told["row"] == "\ud83d" and "cannot be written as JSON" in told["cause"]


def test_causes_are_counted_without_what_is_particular_to_a_row():
    assert kind_of("messages[3].content", "unknown role 'x'; known: user") == "messages[].content: unknown role …"
    assert kind_of("", "broken JSON (Expecting value: line 1)") == "broken JSON"
    assert kind_of("", "data/a-1.wav ends at 3.5 s") == "… ends at … s"


def test_a_row_that_its_converter_trips_over_is_a_bad_row():
    with pytest.raises(RowError, match=r"a\.jsonl:3: is not as rows of its format are \(KeyError: 'x'\)") as error:
        checking.parsed("a.jsonl:3", {"id": 7}, lambda raw: raw["x"], None)
    assert error.value.row_id == "7"
