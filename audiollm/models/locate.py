"""Finds a checkpoint: the folder of a stage, of a whole run (its last finished stage), or a name on the Hub.

Not here: what lies in such a folder and how it is loaded (checkpoint.py).
"""

import json
import logging
import re
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import hf_hub_url, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from safetensors import SafetensorError, safe_open

from audiollm.models.configuration import AudioLLMConfig, AudioTextConfig
from audiollm.models.native.table import NATIVE, NATIVES

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message says why, and what to give instead."""


def resolve_checkpoint(path: str | Path, *, revision: str | None = None) -> Path:
    """The folder that holds the checkpoint files: `path` itself, the last finished stage of a run, or a download.

    runs/quickstart/            a run: run.json says which stages are finished
        align/  instruct/       a stage: config.json, weights, tokenizer
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; a checkpoint is a folder, such as runs/quickstart")
    if not folder.is_dir():
        return _download(str(path), revision)
    if (folder / "config.json").is_file():
        return _ours(folder)
    if any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} has weights and no config.json; restore that file, or train the stage again")
    if (folder / "run.json").is_file() or (folder / "recipe.yaml").is_file():
        return _last_finished_stage(folder)
    raise CheckpointError(
        f"{folder} holds no checkpoint (no config.json) and no run (no run.json); "
        "give the folder of a run or of one of its stages, such as runs/quickstart"
    )


def _ours(folder: Path) -> Path:
    """The folder, if its configuration is one of ours, or of an audio language model that transformers has itself."""
    model_type = type_of(folder)
    ours = AudioLLMConfig.model_type
    if model_type not in (ours, AudioTextConfig.model_type, NATIVE, *NATIVES):
        raise CheckpointError(
            f"{folder} holds a model of type {model_type!r}, not {ours!r}; "
            "a plain encoder or language model becomes one by training: see `audiollm train`. "
            f"Of the audio language models of transformers these are taken as they are: {', '.join(NATIVES)}"
        )
    return folder


def type_of(folder: Path) -> str | None:
    """What the configuration in a folder is of."""
    return _read_json(folder / "config.json").get("model_type")


def _last_finished_stage(run: Path) -> Path:
    """The checkpoint of the last stage that a run has finished; one whose folder is gone is passed over, and named."""
    stages = _read_json(run / "run.json").get("stages", {}) if (run / "run.json").is_file() else {}
    for name in reversed(list(stages)):
        if (run / name / "config.json").is_file():
            return _ours(run / name)
        if (run / name).is_dir():
            cause = "has no config.json, and run.json says that it is done; restore that file, or train the stage again"
            raise CheckpointError(f"{run / name} {cause}")
        log.warning("%s is gone; the stage before it is taken", run / name)
    raise CheckpointError(f"{run} has no finished stage yet; let `audiollm train` finish one, or name another folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _download(name: str, revision: str | None) -> Path:
    """Fetch OWNER/NAME from the Hugging Face Hub, or from its cache on this machine."""
    missing = f"there is no folder {name}"
    # A misspelt local path, such as runs/quikstart, is not looked for on the network.
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or Path(name).parent.is_dir():
        raise CheckpointError(f"{missing}; give the folder of a run or of one of its stages, such as runs/quickstart")
    from huggingface_hub import snapshot_download

    try:
        return resolve_checkpoint(snapshot_download(name, revision=revision))
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        cause = str(error).partition("\n")[0]
        raise CheckpointError(f"{missing} here, and the Hugging Face Hub did not give one: {cause}") from error


def damaged_file(folder: Path) -> str | None:
    """The first file in a folder that was not written to its end, and what is wrong with it; None if all are whole."""
    for file in sorted(folder.rglob("*")):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):  # refuses a file that is not as long as its header says
                    pass
            elif file.suffix in (".pt", ".pth"):  # zip archives with checksums
                with zipfile.ZipFile(file) as archive:
                    broken = archive.testzip()
                    if broken:
                        return f"{file.name}: {broken} has a wrong checksum"
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
        except (SafetensorError, zipfile.BadZipFile, OSError, ValueError) as error:
            return f"{file.name}: {error}"
    return None


def unreachable(name: str, revision: str | None) -> str | None:
    """Why a public encoder or language model cannot be had, found out at once; None if it can, or the Hub answers."""
    try:
        if Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return None
    except ValueError:  # not the form of a name
        return "there is no such folder"
    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and it was not fetched before"
    try:
        with urlopen(Request(hf_hub_url(name, "config.json", revision=revision), method="HEAD"), timeout=10):
            return None
    except HTTPError:  # what the Hub has against it, it tells when the files are asked for
        return None
    except OSError as error:
        return f"it was not fetched before, and the Hugging Face Hub is out of reach: {getattr(error, 'reason', error)}"
