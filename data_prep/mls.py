"""MLS, Multilingual LibriSpeech: audio books in eight languages, read aloud.

{"audio": AUDIO, "original_path": "http://www.archive.org/download/tales_0912/tales_03_64kb.mp3", "begin_time": 395.9,
 "end_time": 411.1, "transcript": "da sprach der alte müller zu seinem sohn", "audio_duration": 15.2,
 "speaker_id": "4800", "chapter_id": "10003", "file": "4800_10003_000000.flac", "id": "4800_10003_000000"}
"""

from collections.abc import Iterator
from typing import Any, Literal

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Item

SET = DataSet(
    title="MLS: audio books in eight languages",
    license="cc-by-4.0",
    tasks=("asr",),
    columns=("audio", "transcript", "id"),
    hub="facebook/multilingual_librispeech",
    config="german",
    splits={"train": ["train"], "validation": ["dev"], "test": ["test"]},
    original="mls_german/ (or another language) as it is unpacked: train/, dev/, test/ with transcripts.txt and audio/",
    citation="Pratap et al., MLS: A Large-Scale Multilingual Dataset for Speech Research, 2020",
)
Language = Literal["dutch", "english", "french", "german", "italian", "polish", "portuguese", "spanish"]
CODES = {"dutch": "nl", "english": "en", "french": "fr", "german": "de", "italian": "it", "polish": "pl"}
CODES |= {"portuguese": "pt", "spanish": "es"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of the transcripts, ID TAB WORDS, of every language that is there; mls_german/ says which one it is."""
    [part] = SET.splits[split]
    for path in archive.find_all(f"{part}/transcripts.txt", f"*/{part}/transcripts.txt"):
        language = path.resolve().parents[1].name.removeprefix("mls_").removesuffix("_opus")
        folder = str(path.parent.relative_to(archive.folder))
        for place, line in archive.lines(path):
            name, _, text = line.partition("\t")
            speaker, _, chapter = name.rpartition("_")[0].partition("_")
            places = (folder, "audio", speaker, chapter)
            flac, opus = (archive.recording(*places, name + suffix) for suffix in (".flac", ".opus"))
            audio = opus if opus and opus.exists() else flac
            known = {"language": language} if language in CODES else {}
            yield place, {"id": name, "transcript": text, "audio": audio, **known}


def convert(row: dict[str, Any], draw: Draw, *, language: Language = "german") -> Item:
    """The transcript; `language` is that of `config`, and not needed for an archive, whose folders tell it."""
    spoken, text = row.get("language", language), row["transcript"]
    question = draw.phrase("asr_language", language=spoken.capitalize())
    return Item(row["audio"], str(row["id"]), [Ask("asr", question, text, language=CODES[spoken])], transcript=text)
