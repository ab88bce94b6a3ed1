"""Fills the store of a frozen encoder's frames before a stage begins: each sound is encoded once, clips of like length
together; under several ranks each encodes its share.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Row, RowError
from audiollm.data.collate import pad_waveforms
from audiollm.data.features import FeatureStore, sound_key
from audiollm.models.parts import fingerprint
from audiollm.recipe import Recipe

FRONT_END = 1
"""To be raised when the encoders' way from samples to frames changes."""
BATCH_SECONDS = 120.0


def open_store(recipe: Recipe, encoder: Any) -> FeatureStore:
    """The store of this encoder, beside the data; it outlives the run."""
    identity = [
        fingerprint(encoder),
        encoder.config.to_diff_dict(),
        str(encoder.dtype),
        encoder.sampling_rate,
        FRONT_END,
    ]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return FeatureStore(Path(recipe.data, "features", name), limit_gib=recipe.feature_cache_gib)


@torch.no_grad()
def fill(store: FeatureStore, encoder: Any, rows: Iterable[Row], accelerator: Any) -> None:
    """Encode what the store does not have yet; a clip that cannot be read is left to training, which names it."""
    clips = {clip.key: clip for row in rows for clip in row.clips}
    mine = list(clips.values())[accelerator.process_index :: accelerator.num_processes]
    missing = sorted(not_kept(store, mine), key=lambda found: -found[0])
    training = encoder.training
    encoder.eval()
    done = 0
    with tqdm(total=len(missing), desc="encoding", disable=not sys.stderr.isatty()) as bar:
        while done < len(missing) and not store.is_full:
            longest = missing[done][0]
            batch = missing[done : done + max(int(BATCH_SECONDS / max(longest, 0.1)), 1)]
            encode(store, encoder, [(key, clip) for _, key, clip in batch], accelerator.device)
            done += len(batch)
            bar.update(len(batch))
    store.flush()
    encoder.train(training)
    accelerator.wait_for_everyone()
    store.refresh()
    if missing:
        accelerator.print(f"encoded {done:,} clips once; {store.folder} holds {store.num_bytes / 2**30:.2f} GiB")
    if done < len(missing):
        accelerator.print(f"feature_cache_gib is reached: {len(missing) - done:,} clips are encoded whenever heard")


def not_kept(store: FeatureStore, clips: Iterable[AudioPart]) -> Iterator[tuple[float, str, AudioPart]]:
    """(seconds, key, clip) of the clips that are to be encoded."""
    for clip in clips:
        with suppress(OSError):
            key = sound_key(clip)
            if key not in store:
                yield clip.seconds(), key, clip


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
