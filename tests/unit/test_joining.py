"""Properties of joining: each rule on its set's rows, none over a stronger one, nothing guessed, every row counted."""

import io
import json
import os
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audiollm import cli
from audiollm.curation.joining import AS_IT_IS, RULES, Joined, join, read_list, stems_of
from audiollm.data.sources import load_rows

VIDEO = "-0SdAVK79lg"


def own(*names: str, **about: Any) -> dict[str, Any]:
    """A row of ours about some recordings; times in `about` are the first clip's, all else the row's."""
    times = {name: about.pop(name) for name in ("start", "end") if name in about}
    clips = [{"type": "audio", "audio": name} for name in names]
    clips[0] |= times
    return {"source": "x"} | about | {
        "messages": [
            {"role": "user", "content": [*clips, {"type": "text", "text": "Who?"}]},
            {"role": "assistant", "content": "Birds."},
        ]
    }  # fmt: skip


def ltu(name: str) -> dict[str, Any]:
    """A row as OpenAQA and CompA-R have it."""
    return {"instruction": "Who?", "input": "", "audio_id": name, "dataset": "as", "task": "open", "output": "Birds."}


def nvidia(*names: str) -> dict[str, Any]:
    """A row as AudioSkills has it."""
    turns = [{"from": "human", "value": "<sound>\n" * len(names) + "Who?"}, {"from": "gpt", "value": "Birds."}]
    return {"id": "7", "sound": names[0] if len(names) == 1 else list(names), "conversations": turns}


def desta(name: str) -> dict[str, Any]:
    """A row as DeSTA-AQA5M has it."""
    asked = {"role": "user", "content": "<|AUDIO|>\nWho?", "audios": [{"audio": name, "text": None}]}
    return {"id": name, "dataset": "d", "messages": [asked, {"role": "assistant", "content": "Birds."}]}


def sift(row_id: str, *names: str) -> dict[str, Any]:
    """A row as SIFT-50M has it."""
    parts = [{"text": None, "audio_path": name} for name in names] + [{"text": "Who?", "audio_path": None}]
    answer = {"role": "assistant", "content": [{"text": "Birds.", "audio_path": None}]}
    return {"id": row_id, "task": "t", "data_source": "mls", "messages": [{"role": "user", "content": parts}, answer]}


def joined(
    tmp_path: Path, rows: list[Any], files: list[str], suffix: str = ".jsonl", folders: tuple[str, ...] = ("",)
) -> Joined:
    """Rows joined with recordings of these names (nothing is decoded, so that they may be empty)."""
    for name in files:
        path = tmp_path / "recordings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "rows").mkdir(exist_ok=True)
    text = json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows" / f"rows{suffix}").write_text(text)
    places = [tmp_path / "recordings" / folder for folder in folders]
    return join(str(tmp_path / "rows" / f"rows{suffix}"), places, tmp_path / "out")


def found_in(tmp_path: Path) -> list[list[str]]:
    """The recordings of each joined row, counted from their folder; all of them are there."""
    rows = load_rows(str(tmp_path / "out" / "joined.jsonl"), check_files=True, strict=True)
    return [[Path(clip.audio).relative_to(tmp_path / "recordings").as_posix() for clip in row.clips] for row in rows]


def lines_of(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    """What a file of the output holds."""
    return [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]


FITTING = [
    ("path", own("b/a.wav"), "b/a.wav"),
    ("path", own("b/../c/a.wav"), "c/a.wav"),
    ("stem", ltu(f"/data/audioset/audio/{VIDEO}.flac"), f"deep/in/{VIDEO}.wav"),
    ("stem", desta("set/a.b.wav"), "a.b.flac"),
    ("stem", own("D:\\set\\a.wav"), "a.wav"),
    ("stem", own("a.17"), "a.17.wav"),
    ("youtube start", nvidia(f"audioset/Y{VIDEO}_30.wav"), f"{VIDEO}_30000.wav"),
    ("youtube start", nvidia(f"{VIDEO}_30000_40000.wav"), f"[{VIDEO}]-[30-40].wav"),
    ("youtube start", ltu(f"{VIDEO}_000030.wav"), f"Y{VIDEO}_30_40.wav"),
    ("youtube start", ltu(f"{VIDEO}_2.5.wav"), f"{VIDEO}_2500.wav"),
    ("youtube start", own(f"{VIDEO}.wav", start=30.0, end=40.0), f"{VIDEO}_30_40.wav"),
    ("youtube id", ltu(f"Y{VIDEO}.wav"), f"{VIDEO}.m4a"),
    ("youtube id", ltu(f"{VIDEO}.wav"), f"Y{VIDEO}.wav"),
    ("youtube id", ltu(f"{VIDEO}_30.wav"), f"{VIDEO}.wav"),
    ("youtube id", ltu(f"{VIDEO}.wav"), f"{VIDEO}_30_40.wav"),
    ("freesound id", nvidia("freesound/17212.wav"), "17212__someone__rain.wav"),
    ("freesound id", nvidia("17212.wav"), "17212_rain.flac"),
    ("freesound id", nvidia("17212_4567-hq.mp3"), "17212.ogg"),
    ("freesound id", nvidia("17212__someone__rain.wav"), "17212.wav"),
    ("librispeech id", desta("librispeech_14-208-0000.flac"), "14/208/14-208-0000.flac"),
    ("librispeech id", desta("14-208-0000.flac"), "14-208-0000_16k.wav"),
    ("sift id", sift("10010_10087_000003", "/old/clip.wav"), "10010_10087_000003.flac"),
    ("sift id", sift("a__b", "/old/clip.wav"), "a__b.flac"),
]


@pytest.mark.parametrize(("rule", "row", "file"), FITTING)
def test_a_recording_is_found_by_its_rule(tmp_path, rule, row, file):
    result = joined(tmp_path, [row], [file, "other.wav", "999999.wav", "Zabcdefghij.wav"])
    assert found_in(tmp_path) == [[file]]
    assert dict(result.total.rules) == {rule: 1}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.wav", "b.wav"),
        ("a.wav", "A.wav"),
        ("a.wav", "a.txt.wav"),
        (f"{VIDEO}_30.wav", f"{VIDEO}_40.wav"),
        (f"{VIDEO}_30_40.wav", f"{VIDEO}_30_35.wav"),
        ("10010_10087_000003.wav", "10010_10087_000004.wav"),
        ("10010_10087_000003.wav", "10010_10087_003000.wav"),
        ("10010.wav", "10010_10087_000004.wav"),
        ("10010_10087_000003.wav", "10010.wav"),
        ("1.wav", "1_list.wav"),
        ("1234_rain.wav", "1234_snow.wav"),
        ("14-208-0000.wav", "14-208-00001.wav"),
        ("14-208-0000.wav", "5-14-208-0000.wav"),
    ],
)
def test_a_name_that_only_resembles_a_recording_is_missing(tmp_path, name, file):
    assert joined(tmp_path, [own(name)], [file]).total.missing == 1
    assert lines_of(tmp_path, "missing")[0]["wanted"] == [{"name": name}]


def test_the_id_of_a_row_of_another_set_names_no_recording(tmp_path):
    assert joined(tmp_path, [own("lost.wav", id="17")], ["17.wav"]).total.missing == 1


LADDER = {
    "path": "old/librispeech_14-208-0000.wav",
    "stem": "new/librispeech_14-208-0000.wav",
    "librispeech id": "new/14-208-0000.wav",
    "sift id": "new/utterance.wav",
}
TUBE = {
    "path": f"old/Y{VIDEO}_30.wav",
    "stem": f"new/Y{VIDEO}_30.wav",
    "youtube start": f"new/{VIDEO}_30_40.wav",
    "youtube id": f"new/{VIDEO}.wav",
    "sift id": "new/utterance.wav",
}
SITE = {
    "path": "old/17212.wav",
    "stem": "new/17212.wav",
    "freesound id": "new/17212_rain.wav",
    "sift id": "new/utterance.wav",
}


@pytest.mark.parametrize("ladder", [LADDER, TUBE, SITE])
def test_a_weaker_rule_never_overrides_a_stronger_one(tmp_path, ladder):
    row = sift("utterance", ladder["path"])
    left = list(ladder)
    assert left == [rule for rule in RULES if rule in ladder]
    for number, rule in enumerate(left):
        folder = tmp_path / str(number)
        result = joined(folder, [row], [ladder[name] for name in left[number:]])
        assert found_in(folder) == [[ladder[rule]]]
        assert dict(result.total.rules) == {rule: 1}


def test_several_recordings_of_the_stronger_rule_are_not_decided_by_a_weaker_one(tmp_path):
    files = ["1/clip.wav", "2/clip.wav", "utterance.wav"]
    assert joined(tmp_path, [sift("utterance", "clip.wav")], files).total.ambiguous == 1


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("/old/a.wav", ["1/a.wav", "2/a.wav"]),
        ("/old/a.wav", ["a.wav", "a.flac"]),
        (f"Y{VIDEO}_30.wav", [f"{VIDEO}_30.wav", f"{VIDEO}_30000.wav"]),
        (f"{VIDEO}.wav", [f"{VIDEO}_30.wav", f"{VIDEO}_40.wav"]),
        ("17212.wav", ["17212_rain.wav", "17212_snow.wav"]),
        ("x_14-208-0000.wav", ["14-208-0000.wav", "14-208-0000_b.wav"]),
    ],
)
def test_several_that_fit_are_named_and_none_is_taken(tmp_path, name, files):
    result = joined(tmp_path, [own(name, id="r")], files)
    assert (result.total.ambiguous, result.total.found) == (1, 0)
    (line,) = lines_of(tmp_path, "ambiguous")
    (wanted,) = line["wanted"]
    assert (line["id"], line["origin"], wanted["name"]) == ("r", f"{tmp_path}/rows/rows.jsonl:1", name)
    assert wanted["candidates"] == sorted(str(tmp_path / "recordings" / file) for file in files)
    assert not lines_of(tmp_path, "joined")


def test_candidates_beyond_those_listed_are_counted(tmp_path):
    joined(tmp_path, [own("/old/a.wav")], [f"{number}/a.wav" for number in range(23)])
    (wanted,) = lines_of(tmp_path, "ambiguous")[0]["wanted"]
    assert (len(wanted["candidates"]), wanted["further_candidates"]) == (20, 3)


def test_the_two_clips_of_a_comparison_are_found_in_their_order(tmp_path):
    rows = [sift("comparison_b__a", "/x/1.wav", "/x/2.wav"), sift("comparison_b__a", "a.wav", "b.wav")]
    joined(tmp_path, rows, ["a.wav", "b.wav"])
    assert found_in(tmp_path) == [["b.wav", "a.wav"], ["a.wav", "b.wav"]]


def test_a_row_with_two_clips_is_joined_with_both_or_not_at_all(tmp_path):
    files = ["a.wav", "1/c.wav", "2/c.wav"]
    rows = [nvidia("a.wav", "b.wav"), nvidia("a.wav", "/x/c.wav"), nvidia("/x/c.wav", "b.wav")]
    result = joined(tmp_path, rows, files)
    assert not lines_of(tmp_path, "joined")
    assert (result.total.missing, result.total.ambiguous) == (2, 1)
    missing = [[one["name"] for one in line["wanted"]] for line in lines_of(tmp_path, "missing")]
    assert missing == [["b.wav"], ["b.wav", "/x/c.wav"]]


def test_a_name_that_leads_out_of_a_folder_is_missing(tmp_path):
    for name in ("secret.wav", "recordings/../rows.wav"):
        (tmp_path / "recordings").mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "recordings" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.wav").touch()
    rows = [own("../secret.wav"), own("b/../../secret.wav"), own("../rows.wav"), own("link/linked.wav"), own("a\0.wav")]
    assert joined(tmp_path, rows, ["here.wav"]).total.missing == len(rows)


def test_a_path_that_exists_stays_and_sound_in_the_row_too(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.wav").touch()
    (tmp_path / "far.wav").touch()
    rows = [own("a.wav"), own(str(tmp_path / "far.wav")), own("data:audio/wav;base64,c291bmQ=")]
    result = joined(tmp_path, rows, ["a.wav", "far.wav"])
    assert dict(result.total.rules) == {AS_IT_IS: 3}
    clips = [row.clips[0].audio for row in load_rows(str(tmp_path / "out" / "joined.jsonl"))]
    assert clips == [str(tmp_path / "rows" / "a.wav"), str(tmp_path / "far.wav"), b"sound"]


@pytest.mark.parametrize(
    ("row", "file", "times"),
    [
        (own(f"{VIDEO}.wav", start=30.0, end=40.0), f"{VIDEO}_30.wav", (None, 10.0)),
        (own(f"{VIDEO}.wav", start=30.0, end=40.0), f"Y{VIDEO}.wav", (30.0, 40.0)),
        (own(f"{VIDEO}_30.wav", start=2.0, end=4.0), f"{VIDEO}_30000.wav", (2.0, 4.0)),
        (own("a.wav", start=2.0, end=4.0), "a.wav", (2.0, 4.0)),
    ],
)
def test_the_times_of_a_clip_count_from_the_start_of_its_recording(tmp_path, row, file, times):
    joined(tmp_path, [row], [file])
    (clip,) = load_rows(str(tmp_path / "out" / "joined.jsonl"))[0].clips
    assert (clip.start, clip.end) == times


def test_every_row_is_counted_once_by_source_and_rule(tmp_path):
    rows = [
        own("a.wav", source="one"), own("/x/a.wav", source="one"), own("lost.wav", source="one"),
        own("/x/twice.wav", source="two"), own(f"Y{VIDEO}.wav", source="two"), own("https://x/a.wav", source="two"),
        own("a.wav", start=5.0, end=1.0), {"messages": []}, 17,
        {"source": "two", "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]},
    ]  # fmt: skip
    result = joined(tmp_path, rows, ["a.wav", "1/twice.wav", "2/twice.wav", f"{VIDEO}.wav"])
    one, two, total = result.of("one"), result.of("two"), result.total
    assert (one.rows, one.found, one.missing, dict(one.rules)) == (3, 2, 1, {"path": 1, "stem": 1})
    assert (two.rows, two.found, two.missing, two.ambiguous) == (3, 2, 0, 1)
    assert (total.rows, total.broken) == (len(rows), 4)
    assert total.rows == total.found + total.missing + total.ambiguous + total.broken
    assert sum(total.rules.values()) == total.found
    numbers = [len(lines_of(tmp_path, name)) for name in ("joined", "missing", "ambiguous", "broken")]
    assert numbers == [total.found, total.missing, total.ambiguous, total.broken]
    assert "two: 3 rows, 2 found (as it is 1, youtube id 1), 0 missing, 1 ambiguous, 0 broken" in result.summary()


def test_a_broken_file_among_others_is_one_broken_row(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "bad.parquet").write_bytes(b"no")
    joined(tmp_path, [own("a.wav")], ["a.wav"])
    result = join(str(tmp_path / "rows" / "*"), [tmp_path / "recordings"], tmp_path / "again")
    assert (result.total.found, result.total.broken) == (1, 1)


def test_the_command_says_that_found_recordings_are_not_opened_and_what_opens_them(tmp_path):
    joined(tmp_path, [own("a.wav")], ["a.wav"])
    words = ["join", str(tmp_path / "rows" / "rows.jsonl"), "--recordings", str(tmp_path / "recordings")]
    told = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "out")])
    assert told.exit_code == 0 and ": 1 row, 1 found" in told.stdout
    assert f"not opened: `audiollm check {tmp_path}/out/joined.jsonl` opens the recordings" in told.stdout
    joined(tmp_path, [own("gone.wav")], [])
    told = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "out")])
    assert told.exit_code == 1 and "audiollm check" not in told.stdout


def test_where_nothing_can_be_read_it_is_said_and_nothing_written(tmp_path):
    with pytest.raises(ValueError, match=r"no row could be read; the first: .*rows\.jsonl:1"):
        joined(tmp_path, [17], ["a.wav"])
    assert not (tmp_path / "out").exists()


def test_the_order_of_the_files_plays_no_part(tmp_path, monkeypatch):
    files = ["a.wav", "1/b.wav", "2/b.wav", f"{VIDEO}_30.wav", f"{VIDEO}_40.wav", "17212_rain.wav", "17212_snow.wav"]
    rows = [own(name) for name in ("a.wav", "/x/b.wav", f"Y{VIDEO}.wav", f"Y{VIDEO}_40.wav", "17212.wav")]
    joined(tmp_path, rows, files)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    paths = [str(tmp_path / "recordings" / name) for name in files]
    for seed in range(5):
        random.Random(seed).shuffle(paths)
        monkeypatch.setattr("audiollm.curation.joining.files_in", lambda folder: iter(paths))
        joined(tmp_path, rows, files)
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


def test_a_recording_of_two_folders_that_lie_in_each_other_is_one(tmp_path):
    joined(tmp_path, [own("a.wav"), own("/x/a.wav")], ["1/a.wav"], folders=("", "1"))
    assert found_in(tmp_path) == [["1/a.wav"], ["1/a.wav"]]
    result = joined(tmp_path, [own("a.wav")], ["1/a.wav", "2/a.wav"], folders=("1", "2"))
    assert result.total.ambiguous == 1


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**20])
def test_a_json_list_is_read_object_by_object_as_a_whole_reading_would(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("audiollm.curation.joining.CHUNK_CHARS", chunk)
    rows = [ltu("a.wav"), ltu('é]},{["\\.wav'), {"x": [1, {"y": []}]}]
    for indent in (None, 2):
        (tmp_path / "rows.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=indent is None), "utf-8")
        assert [raw for _, raw in read_list(tmp_path / "rows.json")] == rows
        named = "\ufeff " + json.dumps({"annotation": rows}, indent=indent) + "\n"
        (tmp_path / "rows.json").write_text(named, "utf-8")
        assert [raw for _, raw in read_list(tmp_path / "rows.json")] == rows
    (tmp_path / "rows.json").write_text("[12, 345]")
    assert len([str(error) for _, error in read_list(tmp_path / "rows.json")]) == 2
    for more in ('{"annotation": [{}], "a": 1}', '{"annotation": [{}]', "[{}] {}"):
        (tmp_path / "rows.json").write_text(more)
        (_, raw), (_, error) = read_list(tmp_path / "rows.json")
        assert raw == {} and "holds more than one list of rows" in str(error)


def test_the_rows_of_salmonns_own_file_are_joined(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "a.wav").touch()
    rows = [{"path": "/data/a.wav", "text": "A dog.", "task": "audiocaption"}]
    (tmp_path / "rows" / "rows.json").write_text(json.dumps({"annotation": rows}))
    result = join(str(tmp_path / "rows" / "rows.json"), [tmp_path / "recordings"], tmp_path / "out")
    assert (result.total.found, result.total.rows) == (1, 1)


def test_a_json_list_that_was_cut_off_gives_its_rows_and_one_broken_one(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "cut.json").write_text(json.dumps([ltu("a.wav")] * 3)[:-20])
    assert joined(tmp_path, [ltu("a.wav")], ["a.wav"], suffix=".json").total.found == 1
    result = join(str(tmp_path / "rows" / "cut.json"), [tmp_path / "recordings"], tmp_path / "out")
    assert (result.total.found, result.total.broken) == (2, 1)
    assert "after row 2" in lines_of(tmp_path, "broken")[0]["cause"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [("none", "is no folder"), ("empty", "holds no recording"), ("x.rar", "is no folder, and none of")],
)
def test_a_folder_without_recordings_is_refused(tmp_path, folder, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.rar").touch()
    (tmp_path / "rows.jsonl").write_text(json.dumps(own("a.wav")))
    with pytest.raises(ValueError, match=message):
        join(str(tmp_path / "rows.jsonl"), [tmp_path / folder], tmp_path / "out")


def test_rows_are_not_overwritten_while_they_are_read(tmp_path):
    joined(tmp_path, [own("a.wav")], ["a.wav"])
    with pytest.raises(ValueError, match="say another place with --out"):
        join(str(tmp_path / "out" / "joined.jsonl"), [tmp_path / "recordings"], tmp_path / "out")
    assert found_in(tmp_path) == [["a.wav"]]


# ---- recordings in archives


KINDS = ("clips.tar", "clips.tar.gz", "clips.tgz", "clips.zip")


def pack(path: Path, members: dict[str, bytes]) -> None:
    """An archive of these names; with None a tar gets a link to /etc/passwd, and a zip too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (0o120777 if content is None else 0o100644) << 16
                archive.writestr(info, b"/etc/passwd" if content is None else content)
        return
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))


def unpacked(tmp_path: Path) -> dict[str, bytes]:
    """What was taken out of archives, by its path."""
    top = tmp_path / "out" / "recordings"
    files = (path for path in top.rglob("*") if path.is_file() and path.name != ".archive")
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_recordings_in_an_archive_are_found_by_every_rule_and_only_those_that_are_needed_come_out(tmp_path, kind):
    for number, (rule, row, file) in enumerate(FITTING):
        folder = tmp_path / str(number)
        pack(
            folder / "recordings" / kind,
            {f"./{file}": b"sound", "other.wav": b"x", "notes.txt": b"x", "999999.wav": b"x"},
        )
        result = joined(folder, [row, row], [], folders=(kind if number % 2 else "",))
        assert dict(result.total.rules) == {rule: 2} and result.recordings == 3 and result.unpacked == (1, 0)
        assert unpacked(folder) == {f"clips/{file}": b"sound"}
        lines = lines_of(folder, "joined")
        assert [line["messages"][0]["content"][0]["audio"] for line in lines] == [f"recordings/clips/{file}"] * 2
        load_rows(str(folder / "out" / "joined.jsonl"), check_files=True, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_leads_elsewhere_or_is_no_file_is_never_written_and_told(tmp_path, kind):
    bad = ["/tmp/a.wav", "../b.wav", "x/../../c.wav", "..\\d.wav", "C:\\e.wav"]
    pack(tmp_path / "recordings" / kind, dict.fromkeys(bad, b"evil") | {"link.wav": None, "good.wav": b"good"})
    stems = ["a", "b", "c", "d", "e", "link", "good"]
    result = joined(tmp_path, [own(f"{stem}.wav") for stem in stems], [])
    assert (result.total.found, result.total.missing, result.recordings) == (1, 6, 1)
    assert unpacked(tmp_path) == {"clips/good.wav": b"good"} and not (tmp_path / "b.wav").exists()
    assert result.left_out == {"leads out of the archive": 5, "a link": 1}
    assert f"a link: 1 ('{tmp_path}/recordings/{kind}/link.wav')" in result.summary()


def test_a_device_a_hard_link_and_a_name_that_comes_twice_are_left_out(tmp_path):
    path = tmp_path / "recordings" / "x.tar"
    pack(path, {"a.wav": b"first"})
    with tarfile.open(path, "a") as archive:
        for name, kind in (
            ("pipe.wav", tarfile.FIFOTYPE),
            ("disk.wav", tarfile.BLKTYPE),
            ("hard.wav", tarfile.LNKTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.wav"
            archive.addfile(info)
        info = tarfile.TarInfo("a.wav")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"other"))
    result = joined(tmp_path, [own("a.wav"), own("pipe.wav"), own("disk.wav"), own("hard.wav")], [])
    assert result.left_out == {"no regular file": 2, "a link": 1, "a name that came already": 1}
    assert result.total.found == 1 and unpacked(tmp_path) == {"x/a.wav": b"first"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_unpacked_stays_and_what_is_not_whole_is_unpacked_again(tmp_path, kind):
    members = {f"{name}.wav": name.encode() * 9000 for name in "abc"}
    pack(tmp_path / "recordings" / kind, members)
    rows = [own(name) for name in members]
    assert joined(tmp_path, rows, []).unpacked == (3, 0)
    (tmp_path / "out/recordings/clips/b.wav").write_bytes(b"short")
    times = {name: (tmp_path / "out/recordings/clips" / name).stat().st_ino for name in members}
    result = joined(tmp_path, rows, [])
    assert result.unpacked == (1, 2) and "unpacked: 1, and 2 that were there" in result.summary()
    assert unpacked(tmp_path) == {f"clips/{name}": content for name, content in members.items()}
    assert {name for name in members if (tmp_path / "out/recordings/clips" / name).stat().st_ino != times[name]} == {
        "b.wav"
    }


def test_recordings_of_another_archive_of_the_same_names_and_sizes_are_not_taken_for_its_own(tmp_path):
    path = tmp_path / "recordings" / "x.tar"
    for content in (b"old", b"new"):
        pack(path, {"a.wav": content})
        os.utime(path, ns=(1, len(content) if content == b"old" else 10**9))
        joined(tmp_path, [own("a.wav")], [])
        assert unpacked(tmp_path) == {"x/a.wav": content}
    pack(tmp_path / "recordings" / "1" / "x.zip", {"b.wav": b"b"})
    joined(tmp_path, [own("a.wav"), own("b.wav")], [])
    names = [line["messages"][0]["content"][0]["audio"] for line in lines_of(tmp_path, "joined")]
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == [b"new", b"b"]
    assert len({Path(name).parent for name in names}) == 2


def test_a_folder_that_somebody_else_filled_is_not_written_into(tmp_path):
    pack(tmp_path / "recordings" / "x.tar", {"a.wav": b"a"})
    (tmp_path / "out" / "recordings" / "x").mkdir(parents=True)
    (tmp_path / "out" / "recordings" / "x" / "mine.wav").touch()
    with pytest.raises(ValueError, match="holds something else; give another --out"):
        joined(tmp_path, [own("a.wav")], [])
    assert unpacked(tmp_path) == {"x/mine.wav": b""} and not (tmp_path / "out" / "joined.jsonl").exists()


def test_a_recording_in_an_archive_and_beside_it_is_ambiguous_but_what_was_unpacked_before_is_not(tmp_path):
    pack(tmp_path / "recordings" / "x.tar", {"a.wav": b"a"})
    (tmp_path / "rows.jsonl").write_text(json.dumps(own("/old/a.wav")))
    for _ in range(2):  # into a folder within
        result = join(str(tmp_path / "rows.jsonl"), [tmp_path / "recordings"], tmp_path / "recordings" / "out")
        assert (result.total.found, result.recordings) == (1, 1)
    assert joined(tmp_path / "recordings" / "..", [own("/old/a.wav")], ["1/a.wav"]).total.ambiguous == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "junk", "flipped"])
def test_a_damaged_archive_is_one_sentence_that_names_it(tmp_path, kind, damage):
    path = tmp_path / "recordings" / kind
    pack(path, {f"{number}.wav": bytes(random.Random(number).randbytes(5000)) for number in range(5)})
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) * 2 // 3 - 512 * (kind == "clips.tar")]
    elif damage == "junk":
        content = bytearray(b"junk" * 3000)
    else:  # the header of the second member, or its bytes where these are checked
        at = 512 + 5120 + 3 if kind == "clips.tar" else len(content) // 3
        content[at : at + 8] = bytes(byte ^ 255 for byte in content[at : at + 8])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read as an archive .*; download it again") as error:
        joined(tmp_path, [own(f"{number}.wav") for number in range(5)], [])
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out" / "joined.jsonl").exists() and not list(tmp_path.rglob("*.tmp"))


def test_an_archive_is_read_once_from_front_to_back_for_what_is_needed(tmp_path, monkeypatch):
    path = tmp_path / "recordings" / "x.tgz"
    pack(path, {f"{number}.wav": bytes(3000) for number in range(50)})
    listed = []
    from audiollm.curation import packed

    monkeypatch.setattr(
        packed, "headers_of", lambda file, of=packed.headers_of: (listed.append(h.name) or h for h in of(file))
    )
    joined(tmp_path, [own("/x/30.wav"), own("/x/7.wav"), own("/y/30.wav")], [])
    assert listed[50:] == [f"{number}.wav" for number in range(31)]  # the list, and then up to the last that is needed
    assert sorted(unpacked(tmp_path)) == ["x/30.wav", "x/7.wav"]


def test_converters_still_ask_for_an_unpacked_folder(tmp_path):
    pack(tmp_path / "x.tar", {"a.wav": b"a"})
    with pytest.raises(ValueError, match=r"x\.tar is an archive; unpack it, and give the folder"):
        stems_of(tmp_path / "x.tar")


def test_a_row_without_a_recording_has_all_that_it_needs(tmp_path):
    row = {"source": "x", "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
    result = joined(tmp_path, [row, own("/old/a.wav"), own("/old/b.wav")], ["a.wav"])
    assert (result.total.found, result.total.missing) == (2, 1) and result.total.rules[AS_IT_IS] == 1
    assert [row.target for row in load_rows(str(tmp_path / "out" / "joined.jsonl"))] == ["4", "Birds."]
