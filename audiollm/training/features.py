"""Fills the store of a frozen encoder's frames before a stage begins: each sound is encoded once, clips of like length
together; under several ranks each encodes its share.
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, RowError
from audiollm.data.collate import pad_waveforms
from audiollm.data.dataset import Recordings
from audiollm.data.features import FeatureStore, sound_key
from audiollm.models.parts import fingerprint
from audiollm.recipe import Recipe

FRONT_END = 1
"""To be raised when the encoders' way from samples to frames changes."""
BATCH_SECONDS = 120.0
AT_ONCE = 1000
"""Recordings among which clips of like length are put together; of shards their sound is in memory meanwhile."""


def open_store(recipe: Recipe, encoder: Any) -> FeatureStore:
    """The store of this encoder; other runs may share it."""
    identity = [
        fingerprint(encoder),
        encoder.config.to_diff_dict(),
        str(encoder.dtype),
        encoder.sampling_rate,
        FRONT_END,
    ]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return FeatureStore(Path(recipe.cache, "features", name), limit_gib=recipe.feature_cache_gib)


@torch.no_grad()
def fill(store: FeatureStore, encoder: Any, sets: Iterable[Recordings], accelerator: Any) -> None:
    """Encode what the store does not have yet; a clip that cannot be read is left to training, which names it.

    Recordings are taken so many at a time, so that those that stay on disk need no more memory than that.
    """
    rank, ranks = accelerator.process_index, accelerator.num_processes
    mine = [(found, numbers) for found in sets for numbers in spans(len(found), ranks)[rank::ranks]]
    training = encoder.training
    encoder.eval()
    done = 0
    with tqdm(total=sum(len(numbers) for _, numbers in mine), desc="encoding", disable=not sys.stderr.isatty()) as bar:
        for recordings, numbers in mine:
            if store.is_full:
                break
            clips = (clip for number in numbers for clip in recordings.groups[number][0].clips)
            done += encode_missing(store, encoder, clips, accelerator.device)
            bar.update(len(numbers))
    store.flush()
    encoder.train(training)
    accelerator.wait_for_everyone()
    store.refresh()
    if done:
        accelerator.print(f"encoded {done:,} clips once; {store.folder} holds {store.num_bytes / 2**30:.2f} GiB")
    if store.is_full:
        accelerator.print("feature_cache_gib is reached: clips that are not kept are encoded whenever they are heard")


def spans(count: int, ranks: int) -> list[range]:
    """Numbers of neighbouring recordings, in which the parts of one are together; some for every rank."""
    size = max(min(AT_ONCE, math.ceil(count / ranks)), 1)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def encode_missing(store: FeatureStore, encoder: Any, clips: Iterable[AudioPart], device: Any) -> int:
    """Encode those of some clips that the store has not, as long as it has room; how many were taken."""
    missing = sorted(not_kept(store, clips), key=lambda found: -found[0])
    done = 0
    while done < len(missing) and not store.is_full:
        longest = missing[done][0]
        batch = missing[done : done + max(int(BATCH_SECONDS / max(longest, 0.1)), 1)]
        encode(store, encoder, [(key, clip) for _, key, clip in batch], device)
        done += len(batch)
    return done


def not_kept(store: FeatureStore, clips: Iterable[AudioPart]) -> list[tuple[float, str, AudioPart]]:
    """(seconds, key, clip) of the sounds that are to be encoded, each once."""
    found: dict[str, AudioPart] = {}
    for clip in clips:
        with suppress(OSError):
            key = sound_key(clip)
            if key not in store:
                found.setdefault(key, clip)
    return [(clip.seconds(), key, clip) for key, clip in found.items()]


def encode(store: FeatureStore, encoder: Any, clips: list[tuple[str, AudioPart]], device: Any) -> None:
    """Run the encoder over some clips."""
    heard = []
    for key, clip in clips:
        try:
            heard.append((key, clip.load(encoder.sampling_rate)))
        except (AudioError, RowError):
            continue
    if not heard:
        return
    batch = pad_waveforms([wave for _, wave in heard])
    frames_NTC, mask_NT = encoder(batch["input_values"].to(device), batch["input_values_mask"].to(device))
    for (key, wave), frames_TC, mask_T in zip(heard, frames_NTC, mask_NT, strict=True):
        store.add(key, frames_TC[mask_T], len(wave))
