"""Data sets of the Hugging Face hub: downloaded once to the hub's cache, or read where they lie; object stores.

    hf://datasets/OWNER/NAME      or hf://datasets/FOLDER, for a data set in a folder of this machine
    s3://bucket/folder            Parquet files or tar shards, by any address that fsspec knows: gs://, az:// ...;
                                  read where they lie

No code of a data set is run. Not here: what its rows mean (formats.py), the index and order of a stream (streams.py).
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import urlsplit

from fsspec import get_filesystem_class
from fsspec.core import url_to_fs

from audiollm.conversation import RowError

PREFIX = "hf://datasets/"
READ_THERE = (".parquet", ".tar")
"""What is read in an object store."""
BLOCKS_KEPT = 4


T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A Parquet file or a tar shard that is read where it lies, by ranges."""

    url: str
    version: str  # another one, if it was changed
    parent: ClassVar[None] = None  # of no folder, from which paths in it could count

    def __str__(self) -> str:
        return self.url

    @property
    def suffix(self) -> str:
        """.parquet or .tar."""
        return PurePosixPath(self.url).suffix

    @property
    def stem(self) -> str:
        """Its name without the suffix."""
        return PurePosixPath(self.url).stem

    def open(self, block: int = 0) -> Any:
        """The file, of which blocks of so many bytes are read and the last ones kept; or only what is asked for."""
        filesystem, path = url_to_fs(self.url)
        if not block:
            return filesystem.open(path, "rb", cache_type="none")
        kept = {"maxblocks": BLOCKS_KEPT}
        return filesystem.open(path, "rb", cache_type="blockcache", block_size=block, cache_options=kept)


class HubDataset(NamedTuple):
    """A split of a data set; where it is streamed, its files are read where they lie."""

    path: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    stream: bool = False

    def __str__(self) -> str:
        about = (
            f"{name} {value}" for name, value in self._asdict().items() if name not in ("path", "stream") and value
        )
        path = self.name if self.name.startswith("/") else self.path  # of a folder here its name is enough
        return " ".join((path, *about))

    @property
    def name(self) -> str:
        """As the hub knows it, or its folder."""
        return self.path.removeprefix(PREFIX)

    def load(self) -> Any:
        """The `datasets.Dataset`, memory-mapped from the cache; RowError where there is none."""
        from datasets import load_dataset  # slow to import

        split = self.split or "train"
        return self.asked(lambda: load_dataset(self.name, self.config, split=split, revision=self.revision))

    def splits(self) -> list[str]:
        """The splits that it has."""
        return list(map(str, self._builder().config.data_files or ["train"]))

    def _builder(self) -> Any:
        from datasets import load_dataset_builder  # slow to import

        return self.asked(lambda: load_dataset_builder(self.name, self.config, revision=self.revision))

    def files(self) -> list[Path | RemoteFile]:
        """The Parquet files of the split, where they lie; RowError where it has none."""
        from datasets.packaged_modules.parquet.parquet import Parquet

        builder = self._builder()
        split, found = self.split or "train", builder.config.data_files or {}
        if not isinstance(builder, Parquet):
            cause = (
                f"does not lie in Parquet files, and `stream: true` reads those alone on the hub; leave `stream` out, "
                f"or `hf download {self.name} --repo-type dataset --local-dir DIR` and stream what is in DIR"
            )
            raise RowError(str(self), "", cause)
        if split not in found:
            raise RowError(str(self), "", f"has no split {split!r}; its files are of: {', '.join(map(str, found))}")
        return self.asked(lambda: [where_it_lies(str(file)) for file in found[split]])

    def asked(self, ask: Callable[[], T]) -> T:
        """What the hub, or its cache, answers; RowError where it cannot."""
        from datasets.exceptions import DatasetsError

        try:
            return ask()
        except (DatasetsError, OSError, ValueError, RuntimeError, ImportError) as error:
            said = str(error.__cause__ or error).strip().partition("\n")[0].rstrip(".")
            cause = f"cannot be loaded ({said}); check its name, `config`, `split` and `revision`, and the network"
            raise RowError(str(self), "", cause) from None

    def fingerprint(self) -> str:
        """Stands for its rows: the names in the cache hold the commit, or times and names of a folder's files."""
        if self.stream:
            names = [str(identity_of(file)) for file in self.files()]
        else:
            names = sorted("/".join(Path(file["filename"]).parts[-2:]) for file in self.load().cache_files)
        return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def is_stored(source: Any) -> bool:
    """Whether a source is an address in an object store."""
    return isinstance(source, str) and "://" in source and not source.startswith(PREFIX)


def refuse_password(address: str) -> None:
    """RowError for an address that holds a password, which is not repeated: it would stand in logs and in cards."""
    parts = urlsplit(address)
    if parts.password or "=" in parts.query:
        raise RowError("", "", "the address holds a password or a signature; leave it to the store's own settings")


def require_store(address: str) -> None:
    """RowError for an address of a kind that nothing here opens; the store itself is not asked."""
    kind = address.partition("://")[0]
    try:
        get_filesystem_class(kind)
    except ValueError:
        raise RowError(address, "", f"{kind}:// is no kind of object store; s3://, gs:// or az:// are") from None
    except ImportError as error:
        raise RowError(address, "", f"a package is missing for {kind}:// ({error})") from None


@contextmanager
def in_store(address: str) -> Iterator[tuple[Any, str]]:
    """The filesystem and the path of an address in an object store; whatever the store raises is a RowError."""
    refuse_password(address)
    require_store(address)
    with within_reach(address):
        yield url_to_fs(address.rstrip("/"))


@contextmanager
def within_reach(address: str) -> Iterator[None]:
    """Whatever a store, or the hub, raises is a RowError with the address."""
    try:
        yield
    except RowError:
        raise
    except Exception as error:  # each store has errors of its own, which share no class
        said = re.sub(r"\?\S+", "", str(error).strip().partition("\n")[0]) or type(error).__name__
        cause = f"cannot be reached ({said}); check the address, the network, and what its store knows of you"
        raise RowError(address, "", cause) from None


def files_in(address: str, *suffixes: str) -> tuple[Any, str, list[str]]:
    """The filesystem of an address, the path in it, and the files of that folder, pattern or file with a suffix."""
    with in_store(address) as (filesystem, path):
        if path.endswith(suffixes) and filesystem.isfile(path):
            return filesystem, path, [path]  # to list it would be to download it over HTTP
        found = filesystem.glob(path) if set("*?[") & set(path) else filesystem.find(path)
        return filesystem, path, sorted(one for one in found if one.endswith(suffixes))


def stored_files(address: str) -> list[RemoteFile]:
    """The Parquet files or tar shards that an address in an object store means; RowError where there is none."""
    filesystem, _, found = files_in(address, *READ_THERE)
    if not found:
        cause = "holds no Parquet file and no tar shard, and nothing else is read in an object store"
        raise RowError(address, "", f"{cause}; copy it to this machine")
    if len({PurePosixPath(path).suffix for path in found}) > 1:
        raise RowError(address, "", "holds both Parquet files and tar shards; say which, as in s3://bucket/set/*.tar")
    with in_store(address):
        return [RemoteFile(filesystem.unstrip_protocol(path), str(filesystem.ukey(path))) for path in found]


def where_it_lies(file: str) -> Path | RemoteFile:
    """A file of a data set, on this machine or elsewhere."""
    if "://" not in file:
        return Path(file)
    if file.startswith("hf://"):  # such an address holds the commit
        return RemoteFile(file, "")
    filesystem, path = url_to_fs(file)
    return RemoteFile(file, str(filesystem.ukey(path)))


def identity_of(file: Path | RemoteFile) -> tuple[str, Any, Any]:
    """Another one, if a file was changed."""
    if isinstance(file, RemoteFile):
        return file.url, file.version, None
    stat = file.stat()
    return str(file.resolve()), stat.st_size, stat.st_mtime_ns
