"""What a frozen encoder hears, kept on disk, so that later epochs and stages need not run it again.

    FOLDER/shard-RANDOM.safetensors      frames [T, C] bfloat16 by the hash of the sound, a few hundred a file

The folder belongs to one encoder: its name holds the encoder's fingerprint. Every process writes files of its own under
a temporary name and renames them, so several can fill one folder. A file that is broken, or whose checksum is not what
was written, is as good as absent: what it held is encoded again.
Not here: running the encoder (training/features.py).
"""

import hashlib
import json
import logging
import os
import uuid
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audiollm.conversation import AudioPart
from audiollm.files import whole

log = logging.getLogger(__name__)

SHARD_BYTES = 64 * 2**20
ENTRIES = "entries"


class Place(NamedTuple):
    """Where the frames of a sound are, and what they must be."""

    shard: Path
    num_samples: int
    checksum: int


class Frames(NamedTuple):
    """What the encoder made of a clip: [T, C] bfloat16, and the clip's length in samples."""

    frames_TC: Tensor
    num_samples: int


class FeatureStore:
    """The frames of one encoder, by sound."""

    def __init__(self, folder: str | Path, *, limit_gib: float = float("inf")) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_gib * 2**30
        self.places: dict[str, Place] = {}
        self.waiting: dict[str, Frames] = {}
        self.num_bytes = self.waiting_bytes = 0
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self.places or key in self.waiting

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached; what is not kept is encoded whenever it is needed."""
        return self.num_bytes + self.waiting_bytes >= self.limit_bytes

    def refresh(self) -> None:
        """Look at what lies in the folder by now."""
        self.places, self.num_bytes = {}, 0
        for shard in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(shard, "pt") as file:  # refuses a file that is not as long as it says
                    entries = json.loads(file.metadata()[ENTRIES])
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                log.warning("%s is broken and left out; what it held is encoded again (%s)", shard, error)
                continue
            self.places |= {key: Place(shard, *entry) for key, entry in entries.items()}
            self.num_bytes += shard.stat().st_size

    def get(self, key: str) -> Frames | None:
        """The frames of a sound; None where they are not here, or not what was written."""
        place = self.places.get(key)
        if place is None:
            return None
        try:
            frames = opened(place.shard).get_tensor(key)
        except (SafetensorError, OSError) as error:
            log.warning("%s cannot be read; what it held is encoded again (%s)", place.shard, error)
        else:
            if checksum(frames) == place.checksum:
                return Frames(frames, place.num_samples)
            log.warning("%s is damaged; what is wrong in it is encoded again", place.shard)
        del self.places[key]
        return None

    def of(self, clip: AudioPart) -> Frames | None:
        """The frames of a clip, or None."""
        try:
            return self.get(sound_key(clip))
        except OSError:  # its file cannot be read, which loading it will tell
            return None

    def add(self, key: str, frames_TC: Tensor, num_samples: int) -> None:
        """Keep the frames of a sound, unless the store is full."""
        if key in self or self.is_full:
            return
        frames = frames_TC.detach().to("cpu", torch.bfloat16).contiguous().clone()
        self.waiting[key] = Frames(frames, num_samples)
        self.waiting_bytes += frames.nbytes
        if self.waiting_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits to be written."""
        if not self.waiting:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shard = self.folder / f"shard-{uuid.uuid4().hex}.safetensors"
        entries = {key: (found.num_samples, checksum(found.frames_TC)) for key, found in self.waiting.items()}
        tensors = {key: found.frames_TC for key, found in self.waiting.items()}
        with whole(shard) as unfinished:
            save_file(tensors, unfinished, metadata={ENTRIES: json.dumps(entries)})
        self.places |= {key: Place(shard, *entry) for key, entry in entries.items()}
        self.num_bytes += shard.stat().st_size
        self.waiting, self.waiting_bytes = {}, 0


def sound_key(clip: AudioPart) -> str:
    """The hash of a clip: of its file's bytes (or the bytes, or the samples), and of the part that is heard.

    OSError if the file cannot be read.
    """
    identity = clip.key
    if isinstance(clip.audio, str | os.PathLike):
        stat = os.stat(clip.audio)
        content = file_hash(os.fspath(clip.audio), stat.st_size, stat.st_mtime_ns)
        identity = (content, clip.start or 0.0, clip.end)
    return hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=1_000_000)
def file_hash(path: str, size: int, modified: int) -> str:
    """The hash of a file's bytes; read again only if its size or time of change is another."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@lru_cache(maxsize=64)
def opened(shard: Path) -> safe_open:
    """A shard, mapped into memory."""
    return safe_open(shard, "pt").__enter__()


def checksum(frames_TC: Tensor) -> int:
    """CRC-32 of the values."""
    return zlib.crc32(frames_TC.contiguous().view(torch.int16).numpy().tobytes())
