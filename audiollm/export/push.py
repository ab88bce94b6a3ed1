"""A checkpoint or an exported folder to the Hugging Face Hub, with its card.

Not here: the card (card.py), the folder (folder.py). What only training goes on with is never uploaded.
"""

import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from audiollm.data.hub import within_reach
from audiollm.data.sources import READERS
from audiollm.export.card import checkpoint_card
from audiollm.inference import resolve_checkpoint
from audiollm.models.checkpoint import RESUME_FILES
from audiollm.models.locate import CheckpointError

CARD = "README.md"
ADAPTER = "adapter_config.json"
PICKLES = ("*.bin", "*.pkl", "*.pickle", "*.ckpt")


class Hub(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make the repository, if it is not there."""
        ...

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str) -> Any:
        """Upload files of a folder in one commit."""
        ...

    def upload_file(self, *, repo_id: str, path_or_fileobj: bytes, path_in_repo: str, commit_message: str) -> Any:
        """Upload one file."""
        ...


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be."""

    folder: Path
    repo: str
    files: dict[str, int]
    """Name -> bytes."""
    uploaded: bool

    def summary(self) -> str:
        """A line for each file, and what became of them."""
        lines = [f"{size / 2**20:10.1f} MiB  {name}" for name, size in self.files.items()]
        done = f"uploaded to {self.repo}" if self.uploaded else f"would be uploaded to {self.repo}; nothing was"
        return "\n".join([*lines, f"{self.folder}: {len(self.files)} files {done}; card: {self.folder / CARD}"])


def push(
    source: str | Path, repo: str, *, private: bool = False, dry_run: bool = False, hub: Hub | None = None
) -> Pushed:
    """Upload a checkpoint or an exported folder; a card is made where there is none, and can be changed before.

    `hub`: an object with the three methods above; huggingface_hub's own, with the login of this machine, if None.
    ValueError for a name that is no OWNER/NAME, and for a folder that holds resume state or pickles.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"{repo!r} is not a name on the Hub; write OWNER/NAME")
    folder = folder_of(source)
    files = files_of(folder)
    if not (folder / CARD).is_file():
        (folder / CARD).write_text(checkpoint_card(folder), encoding="utf-8")
        files = files_of(folder)
    if not dry_run:
        upload(hub or default_hub(), folder, repo, sorted(files), private)
    return Pushed(folder, repo, files, not dry_run)


def folder_of(source: str | Path) -> Path:
    """An exported folder as it is, of whatever architecture; else a checkpoint, or the last one of a run."""
    folder = Path(source).expanduser()
    is_export = (folder / "config.json").is_file() and (folder / CARD).is_file()
    if is_export:
        return folder
    try:
        return resolve_checkpoint(source)
    except CheckpointError as error:
        if not any(path.suffix in READERS for path in folder.glob("*")):
            raise
        raise CheckpointError(
            f"{error}; or a folder of rows that `audiollm prepare` made, which has prepared.json"
        ) from None


def files_of(folder: Path) -> dict[str, int]:
    """The files of a folder with their sizes; ValueError for one that nobody should be given."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        for pattern in RESUME_FILES:
            if any(fnmatch.fnmatch(part, pattern) for part in name.split("/")):
                raise ValueError(f"{folder} holds {name}, with which training goes on; push the stage's checkpoint")
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in PICKLES):
            raise ValueError(f"{folder} holds {name}, which may run code where it is loaded; take it out")
        if path.is_file():
            files[name] = path.stat().st_size
    return files


def default_hub() -> Hub:
    """huggingface_hub's own."""
    from huggingface_hub import HfApi

    api: Any = HfApi()
    return api


def upload(hub: Hub, folder: Path, repo: str, files: list[str], private: bool) -> None:
    """One commit; and a second one where an adapter must name the repository that holds its weights."""
    with within_reach(repo):
        hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repo, folder_path=str(folder), allow_patterns=files, commit_message="Upload by audiollm"
        )
    if ADAPTER in files:  # transformers reads the weights where this says, unless the folder lies on the machine
        settings = {**json.loads((folder / ADAPTER).read_text(encoding="utf-8")), "base_model_name_or_path": repo}
        content = json.dumps(settings, indent=2).encode()
        with within_reach(repo):
            hub.upload_file(
                repo_id=repo, path_or_fileobj=content, path_in_repo=ADAPTER, commit_message="Where the weights lie"
            )
