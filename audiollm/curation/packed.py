"""Recordings in archives (.tar, .tar.gz, .tgz, .zip): their names, and those that are asked for, as files.

    OUT/recordings/clips/.archive        size and time of clips.tar, from which the files beside it are
    OUT/recordings/clips/a/1.wav         its member a/1.wav

A member is a name and some bytes: where it is written is reckoned here, and never by the archive. What is no regular
file, or has a name that leads anywhere else, is left out and told. An archive that is damaged is a ValueError.
Not here: which recordings are asked for (joining.py), rows in tar shards (data/shards.py).
"""

import errno
import gzip
import hashlib
import json
import lzma
import os
import posixpath
import re
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from tqdm import tqdm

from audiollm.data.shards import DAMAGED, headers_of
from audiollm.files import whole

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
MARK = ".archive"
CHUNK_BYTES = 2**20
CANNOT_BE_READ = (*DAMAGED, OSError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
LINK, SPECIAL, OUTSIDE = "a link", "no regular file", "leads out of the archive"
NO_TEXT, ENCRYPTED, REPEATED = "its name is no UTF-8", "encrypted", "a name that came already"


class Member(NamedTuple):
    """What is known of one member; `cause` says why it is left out, if it is."""

    name: str  # from the archive on, with slashes
    size: int
    cause: str | None
    place: Any  # where its bytes are, for `contents`


def is_archive(path: str | Path) -> bool:
    """Whether recordings are looked for in a file."""
    return os.fspath(path).lower().endswith(ARCHIVES)


def stem_of_archive(path: str) -> str:
    """clips of clips.tar.gz."""
    return re.sub(r"(\.tar)?\.[^.]+$", "", os.path.basename(path))


def members_of(path: str) -> Iterator[Member]:
    """All members but folders, in their order; ValueError where the archive cannot be read to its end."""
    seen: set[str] = set()
    with reading(path) as members:
        for member, _ in members:
            yield member._replace(cause=REPEATED) if member.cause is None and member.name in seen else member
            seen.add(member.name)


@contextmanager
def reading(path: str) -> Iterator[Iterator[tuple[Member, Any]]]:
    """The members with the open archive; whatever it raises is a ValueError that names it."""
    try:
        if path.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                yield ((member, archive) for member in in_zip(archive))
        else:
            with open(path, "rb") if path.lower().endswith(".tar") else gzip.open(path) as file:
                yield ((member, file) for member in in_tar(file))  # type: ignore[arg-type]  # which is one for tarfile
    except CANNOT_BE_READ as error:
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
        ):  # of the disk, and not of the archive
            raise
        cause = f"cannot be read as an archive ({error or type(error).__name__})"
        raise ValueError(f"{path} {cause}; download it again, or move it away") from None


def in_tar(file: BinaryIO) -> Iterator[Member]:
    """The members of a tar, which is read from the beginning to the end."""
    for header in headers_of(file):
        if header.isdir():
            continue
        is_plain = header.isreg() and not header.issparse()
        cause = None if is_plain else LINK if header.issym() or header.islnk() else SPECIAL
        yield member_of(header.name, header.size, cause, header.offset_data)
    while isinstance(file, gzip.GzipFile) and file.read(CHUNK_BYTES):  # at its end it says whether all was right
        pass


def in_zip(archive: zipfile.ZipFile) -> Iterator[Member]:
    """The members of a zip, as they lie in it."""
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.is_dir():
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was written by a system without these
        cause = LINK if kind == stat.S_IFLNK else SPECIAL if kind not in (0, stat.S_IFREG) else None
        yield member_of(info.filename, info.file_size, cause or (ENCRYPTED if info.flag_bits & 1 else None), info)


def member_of(name: str, size: int, cause: str | None, place: Any) -> Member:
    """A member by its name from the archive on, `./a.wav` being a.wav; left out where that is no place in a folder."""
    plain = name.replace("\\", "/")
    is_drive = re.match(r"[A-Za-z]:", plain)
    if "\0" in plain or is_drive or posixpath.isabs(plain) or ".." in plain.split("/") or not plain.strip("./"):
        cause = cause or OUTSIDE
    if plain != plain.encode("utf-8", "replace").decode():
        cause = cause or NO_TEXT
    return Member(posixpath.normpath(plain), size, cause, place)


@contextmanager
def contents(archive: Any, member: Member) -> Iterator[IO[bytes]]:
    """The bytes of a member, in an archive that is open."""
    if isinstance(archive, zipfile.ZipFile):
        with archive.open(member.place) as file:
            yield file
    else:
        archive.seek(member.place)
        yield archive


# ---- as files --------------------------------------------------------------------------------------------------------


class Unpacked(NamedTuple):
    """How many recordings were written, and how many were there."""

    written: int
    kept: int


def folders_for(archives: Sequence[str], out: Path) -> dict[str, Path]:
    """The folder of each archive's recordings: its name, and where several have the same a hash of their paths."""
    stems = Counter(map(stem_of_archive, archives))
    hashes = {path: hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8] for path in archives}
    named = {path: stem_of_archive(path) or "archive" for path in archives}
    return {path: out / (f"{name}-{hashes[path]}" if stems[name] > 1 else name) for path, name in named.items()}


def unpack(path: str, names: Collection[str], folder: Path) -> Unpacked:
    """Write members under their names in a folder, in one pass; what is there with the right size stays."""
    _make_room(path, folder)
    left, kept, number = set(names), 0, len(names)
    with (
        reading(path) as members,
        tqdm(
            desc=f"unpack {os.path.basename(path)}", total=number, unit=" recordings", leave=False, disable=None
        ) as bar,
    ):
        for member, archive in members:
            if member.cause is None and member.name in left:
                left.remove(member.name)
                bar.update()
                target = folder / member.name
                if target.is_file() and target.stat().st_size == member.size:
                    kept += 1
                else:
                    _write(archive, member, target)
            if not left:
                break
    if left:
        raise ValueError(f"{path} was changed while it was read; give the same command again when it is as it was")
    return Unpacked(number - kept, kept)


def _write(archive: Any, member: Member, target: Path) -> None:
    """A file that appears when it is complete."""
    with whole(target) as unfinished, contents(archive, member) as file, unfinished.open("wb") as out:
        left = member.size
        while left and (chunk := file.read(min(left, CHUNK_BYTES))):
            left -= out.write(chunk)
        if left:
            raise EOFError(f"{member.name} is cut off")


def _make_room(path: str, folder: Path) -> None:
    """A folder with the recordings of this archive or none: those of another one may have the same names and sizes."""
    about = os.stat(path)
    identity, mark = json.dumps([about.st_size, about.st_mtime_ns]), folder / MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == identity:
        return
    if folder.exists() and not mark.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is to hold the recordings of {path}, and holds something else; give another --out")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    mark.write_text(identity, encoding="utf-8")
