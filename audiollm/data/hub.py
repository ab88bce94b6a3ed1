"""Data sets of the Hugging Face hub: downloaded once to the hub's cache, and read from there.

    hf://datasets/OWNER/NAME      or hf://datasets/FOLDER, for a data set in a folder of this machine

No code of a data set is run. Not here: what its rows mean (formats.py), streams (streams.py).
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from audiollm.conversation import RowError

PREFIX = "hf://datasets/"


class HubDataset(NamedTuple):
    """A split of a data set."""

    path: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        about = (f"{name} {value}" for name, value in self._asdict().items() if name != "path" and value)
        return " ".join((self.path, *about))

    def load(self) -> Any:
        """The `datasets.Dataset`, memory-mapped from the cache; RowError where there is none."""
        from datasets import load_dataset  # slow to import
        from datasets.exceptions import DatasetsError

        name = self.path.removeprefix(PREFIX)
        try:
            return load_dataset(name, self.config, split=self.split or "train", revision=self.revision)
        except (DatasetsError, OSError, ValueError, RuntimeError, ImportError) as error:
            said = str(error.__cause__ or error).strip().partition("\n")[0].rstrip(".")
            cause = f"cannot be loaded ({said}); check its name, `config`, `split` and `revision`, and the network"
            raise RowError(str(self), "", cause) from None

    def fingerprint(self) -> str:
        """Stands for its rows: the names in the cache hold the commit, or times and names of a folder's files."""
        names = sorted("/".join(Path(file["filename"]).parts[-2:]) for file in self.load().cache_files)
        return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
