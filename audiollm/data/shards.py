"""WebDataset shards: tar files in which neighbouring members of one key are a row.

    birds/17.flac, birds/17.json     the key birds/17: a recording, and the row or the fields of any format about it
    birds/18.flac, birds/18.txt      or its answer as text, as in a folder of recordings

A key is the name of a member up to the first dot of its last part. Nothing is unpacked to disk. Other members of a key,
hidden ones, links and special ones are passed over. What is damaged in a shard is a bad row; what follows it is lost.
Not here: what the fields mean (formats.py), which shards there are (sources.py), the order of a stream (streams.py).
"""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from audiollm.conversation import RowError
from audiollm.data.formats import RECORDINGS, Raw, with_recording
from audiollm.data.hub import RemoteFile, within_reach

BLOCK_FOR_ALL, BLOCK_FOR_ONE = 2**22, 2**17  # bytes
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
DAMAGED = (tarfile.TarError, ValueError, OverflowError, MemoryError, EOFError)  # what tarfile raises at a bad header


class Keyed(NamedTuple):
    """A key of a shard: the byte of its first header, its name, and its row or why it is none."""

    place: int
    key: str
    raw: Raw | RowError


def refuse_compressed(path: Path) -> None:
    """RowError for a tar file that cannot be read from the middle."""
    if path.name.lower().endswith(COMPRESSED):
        raise RowError(str(path), "", "is compressed, and a row of it cannot be read alone; unpack it to a plain .tar")


def read_keys(path: Path | RemoteFile, place: int = 0, *, listens: bool = True) -> Iterator[Keyed]:
    """The keys of a shard from the byte of a header on; without `listens` a clip is its name, and not read.

    In an object store it is read in blocks: large ones from its beginning on, as all of it is wanted then.
    """
    with opened(path, BLOCK_FOR_ONE if place else BLOCK_FOR_ALL) as file:
        key, members = "", list[tarfile.TarInfo]()
        damage = None
        try:
            for member in members_of(file, place):
                if members and key_of(member) != key:
                    yield Keyed(members[0].offset, key, raw_of(path, key, file, members, listens))
                    members = []
                key = key_of(member)
                members.append(member)
        except DAMAGED as error:
            cause = f"is damaged after {key or 'its beginning'} ({error}), what follows is lost; write it again"
            damage = RowError(str(path), "", cause)
        if members:
            yield Keyed(members[0].offset, key, raw_of(path, key, file, members, listens))
        if damage:
            yield Keyed(place, key, damage)


@contextmanager
def opened(path: Path | RemoteFile, block: int) -> Iterator[BinaryIO]:
    """A shard, here or in an object store."""
    if isinstance(path, Path):
        with path.open("rb") as file:
            yield file
    else:
        with within_reach(path.url), path.open(block) as file:
            yield file


def members_of(file: BinaryIO, place: int) -> Iterator[tarfile.TarInfo]:
    """The files in a tar from the byte of a header on; one of DAMAGED where it cannot be read on."""
    size = file.seek(0, os.SEEK_END)
    for member in headers_of(file, place):
        if member.offset_data + member.size > size:
            raise tarfile.ReadError(f"{member.name} is cut off")
        if member.isreg() and not member.issparse() and not PurePosixPath(member.name).name.startswith("."):
            yield member


def headers_of(file: BinaryIO, place: int = 0) -> Iterator[tarfile.TarInfo]:
    """All members of a tar from the byte of a header on, of which none is kept; one of DAMAGED as above."""
    file.seek(place)
    archive = tarfile.TarFile(fileobj=file)
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would hold every header of a large shard
        yield member
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # a damaged header and a cut are ends to tarfile
        raise tarfile.ReadError("neither a header nor the end of a tar")


def key_of(member: tarfile.TarInfo) -> str:
    """The name up to the first dot of its last part."""
    name = PurePosixPath(member.name)
    return str(name.with_name(name.name.partition(".")[0]))


def raw_of(
    path: Path | RemoteFile, key: str, file: BinaryIO, members: Sequence[tarfile.TarInfo], listens: bool
) -> Raw | RowError:
    """The row of a key as it stands, its recording in it as bytes."""
    origin = f"{path}:{key}"
    sounds = [member for member in members if PurePosixPath(member.name).suffix.lower() in RECORDINGS]
    if len(sounds) != 1:
        names = ", ".join(member.name for member in sounds or members)
        cause = f"has {len(sounds) or 'no'} recordings ({names}); a key has one, and its text stands next to it"
        return RowError(origin, "", cause)
    name = sounds[0].name
    audio = content_of(file, sounds[0]) if listens else name.encode()
    texts = {member.name.removeprefix(key).lower(): member for member in members}
    try:
        if ".json" in texts:
            fields = json.loads(content_of(file, texts[".json"]))
            if isinstance(fields, Mapping):
                return with_recording(fields, audio)
            return RowError(origin, "", f"a row is an object, not {type(fields).__name__}; check how it was written")
        if ".txt" in texts:
            answer = content_of(file, texts[".txt"]).decode("utf-8-sig").strip()
            return {"id": name, "source": path.stem, "source_id": name, "audio": audio, "answer": answer}
    except UnicodeDecodeError:
        return RowError(origin, "", "its text is not UTF-8; save it as UTF-8")
    except (ValueError, RecursionError) as error:
        return RowError(origin, "", f"broken JSON ({error}); write one object")
    return RowError(origin, "", f"has no text next to {name}; write its row to {key}.json or its answer to {key}.txt")


def content_of(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member."""
    file.seek(member.offset_data)
    return file.read(member.size)
