"""What ranks tell one another beside gradients: whether all could write, and what one has said already.

A rank that fails alone leaves the others waiting for it. Not here: sharding (sharding.py), signals (signals.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch.distributed import TCPStore


def is_main() -> bool:
    """Whether this process is the first of its launcher's, or the only one: it writes what all share."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def written_to(target: Path, accelerator: Any) -> Iterator[None]:
    """All ranks write here, or some do; what keeps any of them from it (a full disk) is told, and ends them all.

    OSError with one sentence on every rank. Inside, no rank may wait for another; after it, all have written.
    """
    failed: Exception | None = None
    try:
        yield
    except (SafetensorError, OSError, RuntimeError) as error:
        failed = error
    causes = gathered([(str(failed) or repr(failed)).splitlines()[0]] if failed else [], accelerator)
    if causes:
        raise OSError(
            f"{target.with_name(target.name.removesuffix('.partial'))} could not be written ({causes[0]}); "
            "what was written before it is whole: make room, and give the same command again"
        ) from failed


def gathered(mine: list[Any], accelerator: Any) -> list[Any]:
    """What all ranks have to say, in their order. Every rank must call this."""
    return gather_object(mine) if accelerator.num_processes > 1 else mine


def is_first_to_say(sentence: str) -> bool:
    """Whether no other rank has said it: most of what stops one stops all. torchrun has a store for such notes."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"said after {os.environ['TORCHELASTIC_RESTART_COUNT']} restarts: {sentence}", 1) == 1
    except RuntimeError:  # the launcher has gone
        return True
