"""Prepared rows for others: what goes up is read back as it was, nothing of this machine goes along or is mixed in."""

import json
import shutil
from pathlib import Path

import datasets
import fsspec
import pytest
import yaml
from converters import RATE, write_csv, write_sound
from typer.testing import CliRunner

from audiollm import cli
from audiollm.conversation import RowError
from audiollm.curation import running
from audiollm.curation.prepare import prepare
from audiollm.curation.publishing import publish
from audiollm.data.hub import HubDataset, stored_files
from audiollm.data.sources import fingerprint, load_rows
from audiollm.data.streams import open_stream
from audiollm.recipe import load_recipe, missing_files

LABELS = ("dog", "rain", "siren")
STORE = "memory://bucket/esc"


class FakeHub:
    """Writes down what it is asked, and holds these files."""

    def __init__(self, files=()):
        self.files, self.calls = list(files), {}

    def list_repo_files(self, repo, *, repo_type):
        return self.files

    def create_repo(self, repo, **about):
        self.calls["create_repo"] = {"repo_id": repo} | about

    def upload_folder(self, **about):
        self.calls["upload_folder"] = about


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A cache and a store of the test's own, and small chunks."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(running, "ROWS_A_CHUNK", 4)
    datasets.disable_progress_bars()
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """An archive of ESC-50 with 15 clips, two of which are the test's."""
    folder = tmp_path_factory.mktemp("private") / "esc"
    rows = [
        {"filename": f"{n}.wav", "fold": 5 if n > 12 else 1, "target": 0, "category": LABELS[n % 3], "esc10": False,
         "src_file": n, "take": "A"}
        for n in range(15)
    ]  # fmt: skip
    write_csv(folder / "meta" / "esc50.csv", rows)
    for n in range(15):
        write_sound(folder / "audio" / f"{n}.wav", n)
    return folder


def made(source: Path, out: Path, audio: str, **options) -> Path:
    prepare("esc50", out, {"source": str(source), "audio": audio, **options})
    return out


def heard(rows):
    """What a row is, and what it sounds like; where it stands plays no part."""
    return [(row.id, row.task, row.question, row.target, row.license, row.clips[0].load(RATE).tolist()) for row in rows]


def by_id(path):
    return sorted(heard(load_rows(path, strict=True)))


def front_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_what_is_pushed_to_an_object_store_is_read_back_as_it_was(source, tmp_path):
    folder = made(source, tmp_path / "set", "embed")
    published = publish(folder, STORE)
    assert published.kept == 0 and f"it is read as {STORE}" in published.summary()
    for split in ("train", "test"):
        assert by_id(f"{STORE}/{split}-*.parquet") == by_id(str(folder / f"{split}-*.parquet"))
    assert by_id(STORE) == by_id(str(folder / "*.parquet")) and len(by_id(STORE)) == 60
    stream, problems = open_stream(STORE, tmp_path / "index")
    assert sorted(heard([row for n in range(len(stream)) for row in stream[n]])) == by_id(STORE) and not problems.count
    assert not any(
        STORE in one for one in missing_files(load_recipe("quickstart", [f"stages.align.data.train=[{STORE}]"]))
    )


def test_what_is_there_already_is_not_sent_again(source, tmp_path, monkeypatch):
    folder = made(source, tmp_path / "set", "embed")
    publish(folder, STORE)
    before = fingerprint(STORE)
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/esc/train-00001.parquet", b"half")
    sent, put = [], type(files).put_file
    monkeypatch.setattr(
        type(files), "put_file", lambda self, local, path, **o: (sent.append(path), put(self, local, path, **o))
    )
    published = publish(folder, STORE)
    assert [Path(path).name for path in sent] == ["train-00001.parquet", "README.md"]
    assert published.kept == len(published.files) - 2 and f"{published.kept} were there" in published.summary()
    assert by_id(STORE) == by_id(str(folder / "*.parquet")) and fingerprint(STORE) != before

    content = files.cat("/bucket/esc/train-00002.parquet")
    files.pipe(
        "/bucket/esc/train-00002.parquet", content[:-9] + b"?" + content[-8:]
    )  # of another set, by chance as long
    publish(folder, STORE)
    assert [Path(path).name for path in sent[2:]] == ["train-00002.parquet", "README.md"]


def test_what_does_not_arrive_whole_is_told(source, tmp_path, monkeypatch):
    files = fsspec.filesystem("memory")
    monkeypatch.setattr(type(files), "put_file", lambda self, local, path, **o: self.pipe(path, b"x"))
    with pytest.raises(ValueError, match=r"esc: test-00003\.parquet, .* did not arrive whole"):
        publish(made(source, tmp_path / "set", "embed"), STORE)


def test_rows_of_another_set_at_the_target_are_not_mixed_with_these(source, tmp_path):
    folder = made(source, tmp_path / "set", "embed")
    fsspec.filesystem("memory").pipe("/bucket/esc/train-00099.parquet", b"x")
    with pytest.raises(ValueError, match=r"holds train-00099\.parquet of another set"):
        publish(folder, STORE)
    assert fsspec.filesystem("memory").find("/bucket") == ["/bucket/esc/train-00099.parquet"]
    hub = FakeHub(["train-00099.parquet", "README.md", "other.txt"])
    with pytest.raises(ValueError, match=r"me/esc holds train-00099\.parquet of another set"):
        publish(folder, "me/esc", hub=hub)
    assert "upload_folder" not in hub.calls


@pytest.mark.parametrize("audio", ["embed", "flac"])
@pytest.mark.parametrize("shards", [1, 2])
def test_on_the_hub_load_dataset_reads_each_split_by_the_card(source, tmp_path, audio, shards):
    folder = tmp_path / "set"
    for shard in range(1, shards + 1):
        made(source, folder, audio, **({"shard": f"{shard}/{shards}"} if shards > 1 else {}))
    hub = FakeHub()
    published = publish(folder, "me/esc", private=True, hub=hub)
    assert hub.calls["create_repo"] == {"repo_id": "me/esc", "repo_type": "dataset", "private": True, "exist_ok": True}
    sent = hub.calls["upload_folder"]
    assert (sent["repo_id"], sent["repo_type"], sent["folder_path"]) == ("me/esc", "dataset", str(folder))
    from huggingface_hub.utils import filter_repo_objects

    every = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    gone = set(filter_repo_objects(every, allow_patterns=sent["allow_patterns"]))
    assert gone == set(published.files) and not any("prepared" in name or "dropped" in name for name in gone)
    elsewhere = tmp_path / "elsewhere"
    for name in gone:
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, elsewhere / name)
    loaded = datasets.load_dataset(str(elsewhere))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 52, "test": 8}
    suffix = "parquet" if audio == "embed" else "jsonl"
    for split in ("train", "test"):
        if audio == "embed":
            there = load_rows(HubDataset(f"hf://datasets/{elsewhere}", split=split), strict=True)
        else:
            there = load_rows(str(elsewhere / f"{split}*.jsonl"), strict=True)
            assert sorted(loaded[split]["id"]) == sorted(row.id for row in there)
        assert sorted(heard(there)) == by_id(str(folder / f"{split}*.{suffix}"))


def test_the_card_tells_rows_licences_and_how_it_was_made_and_nothing_of_this_machine(source, tmp_path, monkeypatch):
    folder = made(source, tmp_path / "set", "embed", seed=7)
    (tmp_path / "private/esc50").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    manifest = json.loads((folder / "prepared.json").read_text())
    manifest["options"] |= {
        "api_token": "hf_abc",
        "revision": "https://me:word@host/x?sig=1",
        "source": "private/esc50",
    }
    (folder / "prepared.json").write_text(json.dumps(manifest))
    publish(folder, "me/esc", dry_run=True)
    text, front = (folder / "README.md").read_text(), front_of(folder)
    assert front["license"] == "cc-by-nc-3.0"
    assert front["configs"][0]["data_files"] == [
        {"split": "train", "path": "train-*.parquet"}, {"split": "test", "path": "test-*.parquet"}
    ]  # fmt: skip
    for words in (
        "| train | 52 |", "| test | 8 |", "| existence | 30 |", "| esc50 | cc-by-nc-3.0 | 60 |",
        "load_dataset(\"me/esc\")", "seed=7", "source=esc", "converter `esc50`", f"digest `{manifest['digest']}`", "https://host/x",
    ):  # fmt: skip
        assert words in text, words
    for secret in (str(source.parent), str(tmp_path), "private", "hf_abc", "word", "sig="):
        assert secret not in text, secret


def test_a_licence_that_the_hub_does_not_have_is_other_there_and_stands_in_the_text(source, tmp_path, monkeypatch):
    folder = made(source, tmp_path / "set", "flac")
    lines = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    (folder / "test.jsonl").write_text(
        "".join(json.dumps(line | {"license": "academic use only"}) + "\n" for line in lines)
    )
    publish(folder, "me/esc", dry_run=True)
    assert front_of(folder)["license"] == ["cc-by-nc-3.0", "other"]
    assert "| esc50 | academic use only | 8 |" in (folder / "README.md").read_text()


def test_a_card_that_was_changed_stays_unless_it_is_of_other_files(source, tmp_path):
    folder = made(source, tmp_path / "set", "embed")
    publish(folder, "me/esc", dry_run=True)
    text = (folder / "README.md").read_text() + "my own words"
    (folder / "README.md").write_text(text)
    publish(folder, "me/esc", hub=FakeHub())
    assert (folder / "README.md").read_text() == text
    digest = json.loads((folder / "prepared.json").read_text())["digest"]
    for other in (text.replace("train-*", "rows-*"), "my own words", text.replace(digest, "of other rows")):
        (folder / "README.md").write_text(other)
        with pytest.raises(ValueError, match=r"does not have the `configs` and the digest of the rows .*; remove it"):
            publish(folder, "me/esc", hub=FakeHub())


def test_a_dry_run_uploads_nothing_and_lists_what_would_go_and_what_stays(source, tmp_path):
    folder = made(source, tmp_path / "set", "flac")
    (folder / "notes.txt").write_text("mine")
    hub = FakeHub()
    told = publish(folder, "me/esc", dry_run=True, hub=hub).summary()
    assert not hub.calls and "clips/*.flac: 15 files" in told and "nothing was" in told
    assert "stays here: notes.txt, prepared.json" in told and "licences of the rows: cc-by-nc-3.0" in told
    publish(made(source, tmp_path / "embedded", "embed"), STORE, dry_run=True)
    assert not fsspec.filesystem("memory").find("/bucket")


def test_a_hub_out_of_reach_is_one_sentence(source, tmp_path):
    class Away(FakeHub):
        def create_repo(self, repo, **about):
            raise ConnectionError("no route\nto host")

    with pytest.raises(RowError, match=r"^me/esc: cannot be reached \(no route\); check the address, the network"):
        publish(made(source, tmp_path / "set", "embed"), "me/esc", hub=Away())


def test_recordings_that_others_do_not_have_are_refused(source, tmp_path):
    with pytest.raises(RowError, match=r"0\.wav is outside of the folder.*; make it with audio=embed or audio=flac"):
        publish(made(source, tmp_path / "paths", "paths"), "me/esc", hub=FakeHub())
    linked = made(source, tmp_path / "linked", "flac")
    clip = next((linked / "clips").rglob("*.flac"))
    clip.unlink()
    with pytest.raises(RowError, match=r"\.flac is not there"):
        publish(linked, "me/esc", hub=FakeHub())
    clip.symlink_to(source / "audio" / "0.wav")
    with pytest.raises(RowError, match="is outside of the folder"):
        publish(linked, "me/esc", hub=FakeHub())
    assert not (linked / "README.md").exists()


def test_rows_that_are_not_read_in_an_object_store_are_refused_there(source, tmp_path):
    folder = made(source, tmp_path / "set", "flac")
    with pytest.raises(ValueError, match="JSONL, which are not read in an object store; make it with audio=embed"):
        publish(folder, STORE)
    fsspec.filesystem("memory").pipe("/bucket/esc/train.jsonl", b"{}")
    with pytest.raises(ValueError, match="holds no Parquet file and no tar shard, and nothing else is read"):
        load_rows(STORE)


def test_a_folder_that_is_not_complete_or_was_changed_is_refused(source, tmp_path):
    folder = made(source, tmp_path / "set", "embed", shard="1/2")
    with pytest.raises(ValueError, match=r"is not complete \(1 of 2 shards are there\)"):
        publish(folder, "me/esc", hub=FakeHub())
    whole = made(source, tmp_path / "whole", "embed")
    manifest = json.loads((whole / "prepared.json").read_text())
    (whole / "prepared.json").write_text(json.dumps({key: manifest[key] for key in ("converter", "options", "digest")}))
    with pytest.raises(ValueError, match=r"is not complete \(prepared\.json was begun\)"):
        publish(whole, "me/esc", hub=FakeHub())
    (whole / "prepared.json").write_text(json.dumps(manifest))
    next(whole.glob("train-*.parquet")).unlink()
    with pytest.raises(ValueError, match=r"rows of train, and prepared\.json says 52; make it again"):
        publish(whole, "me/esc", hub=FakeHub())


@pytest.mark.parametrize("address", ["s3://me:word@bucket/set", "https://host/set?sig=word"])
def test_an_address_with_a_password_is_refused_and_not_repeated(source, tmp_path, address):
    folder = made(source, tmp_path / "set", "embed")
    for what in (lambda: publish(folder, address), lambda: load_rows(address), lambda: stored_files(address)):
        with pytest.raises(ValueError, match="holds a password or a signature") as error:
            what()
        assert "word@" not in str(error.value) and "=word" not in str(error.value)
    assert not (folder / "README.md").exists()


def test_the_commands_push_prepared_rows(source, tmp_path):
    out, run = str(tmp_path / "set"), CliRunner().invoke
    words = ["prepare", "esc50", "--source", str(source), "--audio", "embed", "--out", out]
    done = run(cli.app, [*words, "--push", STORE])
    assert done.exit_code == 0 and f"uploaded to {STORE}" in done.output and len(by_id(STORE)) == 60
    again = run(cli.app, ["push", out, STORE])
    assert again.exit_code == 0 and "were there" in again.output
    listed = run(cli.app, ["push", out, "me/esc", "--dry-run"])
    assert listed.exit_code == 0 and "would be uploaded to me/esc" in listed.output
    for arguments, sentence in (
        (["push", out, "esc"], "'esc' is no name on the Hub, and no address"),
        (["push", out, STORE, "--private"], "--private is for the Hub"),
        (["push", out, "nothing://x", "--dry-run"], "nothing://x: nothing:// is no kind of object store"),
        (["push", str(tmp_path), STORE], "was not made by `audiollm prepare`"),
        ([*words, "--push", "esc"], "is no name on the Hub"),
        ([*words, "--shard", "1/2", "--push", "me/esc"], "--push is for a set that one machine makes"),
    ):
        refused = run(cli.app, arguments)
        assert refused.exit_code == 2 and sentence in refused.output and refused.output.count("\n") == 1


def test_splits_of_jsonl_whose_rows_have_other_fields_are_read_together(source, tmp_path):
    folder = made(source, tmp_path / "set", "flac")
    lines = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    lines[-1] |= {"language": "de", "references": ["a dog", "one dog"]}
    lines[-1]["messages"][0] |= {"loss": False}
    lines[-1]["messages"][0]["content"][0] |= {"transcript": "woof", "start": 0.25}
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    publish(folder, "me/esc", dry_run=True)
    loaded = datasets.load_dataset(str(folder))
    row = loaded["test"][-1]
    assert (row["language"], row["references"], row["messages"][0]["loss"]) == ("de", ["a dog", "one dog"], False)
    assert row["messages"][0]["content"][0] | {"transcript": "woof", "start": 0.25} == row["messages"][0]["content"][0]
    assert loaded["train"].features == loaded["test"].features and loaded["train"][0]["messages"][0]["loss"] is None


def test_a_field_that_the_card_cannot_describe_is_refused(source, tmp_path):
    folder = made(source, tmp_path / "set", "flac")
    lines = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    (folder / "test.jsonl").write_text("".join(json.dumps(line | {"rejected": "a cat"}) + "\n" for line in lines))
    with pytest.raises(RowError, match=r"test\.jsonl:1: has rejected, which the card cannot describe"):
        publish(folder, "me/esc", hub=FakeHub())
