"""Examples to one batch of tensors; its keys are the names of `forward`'s arguments.

Shapes: B packed sequences, S tokens, N clips, L samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from audiollm.conversation import AudioPart
from audiollm.data.dataset import Example, Sounding, num_samples
from audiollm.data.features import Frames
from audiollm.data.packing import IGNORE_INDEX, PackedSequence, best_fit, ends_of_rows, join
from audiollm.data.quarantine import BadRow

PADDING = -1  # the clip id of padding


class Batch(TypedDict, total=False):
    """One micro-batch; objectives add the targets that they ask for.

    Where a teacher reads along, what it reads has the names of the first ten with `teacher_` before them; its
    supervised tokens are the student's, in the same order.
    """

    input_ids: Tensor  # [B, S] int64; audio positions hold the audio token
    position_ids: Tensor  # [B, S] int64; a branch goes on where its trunk ended
    branch_ids: Tensor  # [B, S] int64; 0 is the trunk
    clip_ids: Tensor  # [B, S] int64; -1 is padding
    shift_labels: Tensor  # [B, S] int64; the token that this position predicts, or IGNORE_INDEX
    attention_mask: Tensor  # [B, S] int64; in place of the two ids, where each question is a row
    cu_seq_lens_q: Tensor  # [questions + 1] int32; in place of the two ids, where questions stand one after another
    cu_seq_lens_k: Tensor  # the same
    max_length_q: int  # of a question
    max_length_k: int
    input_values: Tensor  # [N, L] float32 in [-1, 1]; the clips that have no kept frames, in prompt order
    input_values_mask: Tensor  # [N, L] bool; False after a clip's end
    audio_frames: Tensor  # [K, T, C] bfloat16; what a frozen encoder made of clips before, in prompt order
    audio_frames_mask: Tensor  # [K, T] bool; False after a clip's end
    audio_is_cached: Tensor  # [N + K] bool; which of all clips, in prompt order, have frames
    teacher_ends: Tensor  # [supervised tokens] bool; which are the last of their row
    features: list[dict[str, Tensor]]  # of each clip, where the model's own processor makes them of the samples
    num_samples: int  # of all clips
    num_recordings: int
    row_ids: list[str]
    problems: list[BadRow]  # recordings that are broken, rows that are too long


Targets = Callable[[Sequence[AudioPart]], dict[str, Tensor]]
"""What an objective makes of the clips of a batch, in the order of `input_values`."""


Hear = Callable[[Sequence[np.ndarray]], Mapping[str, Any]]
"""What a model is given of clips [L]."""


Layout = Literal["branches", "rows", "varlen"]
"""How sequences lie in a batch: packed, with ids; a padded row each; one after another, told apart by their lengths."""


class Collator:
    """Packs sequences into rows of like length and pads; `pack_tokens` is the least length of such a row.

    In the layouts `rows` and `varlen` a sequence must hold one question alone: it is then like any text.
    """

    def __init__(
        self,
        pad_token_id: int,
        *,
        layout: Layout = "branches",
        pack_tokens: int | None = None,
        targets: Sequence[Targets] = (),
        hear: Hear | None = None,
    ) -> None:
        self.pad_token_id = pad_token_id
        self.layout = layout
        self.pack_tokens = pack_tokens or 0
        self.targets = targets
        self.hear = hear or pad_waveforms

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            "row_ids": [row_id for example in examples for row_id in example.row_ids],
            "num_recordings": len(examples),
            "problems": [problem for example in examples for problem in example.problems],
        }
        ordered = list(examples)
        if any(example.sequences for example in examples):
            tokens, ordered = self.pack(examples)
            batch |= tokens
        sounds = [sound for example in ordered for sound in example.sounds]
        batch["num_samples"] = sum(map(num_samples, sounds))
        batch |= self.hear([sound for sound in sounds if not isinstance(sound, Frames)])
        batch |= pad_frames(sounds)
        clips = [clip for example in ordered for clip in example.clips]
        for make in self.targets:
            batch |= make(clips)
        return batch

    def pack(self, examples: Sequence[Example]) -> tuple[dict[str, Any], list[Example]]:
        """Token tensors [B, S], and the examples in the order in which they stand in them."""
        bins = [[index] for index in range(len(examples))]
        if self.layout == "branches":
            lengths = [sum(len(s) for s in example.sequences) for example in examples]
            bins = best_fit(lengths, max(self.pack_tokens, max(lengths)))
        batch = self.lay([[s for index in members for s in examples[index].sequences] for members in bins])
        taught = [[s for index in members for s in examples[index].teacher] for members in bins]
        taught = [sequences for sequences in taught if sequences]
        if taught:
            batch |= {f"teacher_{name}": value for name, value in self.lay(taught).items()}
            ends = np.concatenate([ends_of_rows(sequence) for sequences in taught for sequence in sequences])
            batch["teacher_ends"] = torch.from_numpy(ends)
        return batch, [examples[index] for members in bins for index in members]

    def lay(self, bins: Sequence[Sequence[PackedSequence]]) -> dict[str, Any]:
        """The sequences of each bin in one row, or as the layout has it."""
        if self.layout == "branches":
            return pad_sequences([join(sequences) for sequences in bins], self.pad_token_id)
        plain = [sequence for sequences in bins for sequence in sequences]
        assert all(int(sequence.branch_ids.max()) <= 1 for sequence in plain)
        return padded_rows(plain, self.pad_token_id) if self.layout == "rows" else one_after_another(plain)


def pad_sequences(rows: Sequence[PackedSequence], pad_token_id: int) -> dict[str, Tensor]:
    """Sequences padded on the right to the longest: [B, S] each."""
    longest = max(len(row) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        filled = np.full((len(rows), longest), value, np.int64)
        for number, row in enumerate(rows):
            filled[number, : len(row)] = getattr(row, name)
        return torch.from_numpy(filled)

    return {
        "input_ids": padded("input_ids", pad_token_id),
        "position_ids": padded("position_ids", 0),
        "branch_ids": padded("branch_ids", 0),
        "clip_ids": padded("clip_ids", PADDING),
        "shift_labels": padded("shift_labels", IGNORE_INDEX),
    }


def padded_rows(sequences: Sequence[PackedSequence], pad_token_id: int) -> dict[str, Tensor]:
    """A row for each sequence, with the usual attention mask: [B, S] each."""
    padded = pad_sequences(sequences, pad_token_id)
    mask = (padded["clip_ids"] != PADDING).long()
    return {"input_ids": padded["input_ids"], "attention_mask": mask, "shift_labels": padded["shift_labels"]}


def one_after_another(sequences: Sequence[PackedSequence]) -> dict[str, Any]:
    """All sequences in one [1, S], and where each begins, as FlashAttention takes them; the lengths are plain ints."""
    joined = pad_sequences([join(sequences)], 0)
    lengths = torch.tensor([0, *map(len, sequences)])
    ends, longest = lengths.cumsum(0).int(), int(lengths.max())
    tokens = {name: joined[name] for name in ("input_ids", "position_ids", "shift_labels")}
    return tokens | {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def pad_waveforms(waveforms: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Clips padded with zeros to the longest: values [N, L] and mask [N, L]; nothing where there are none."""
    if not waveforms:
        return {}
    lengths = torch.tensor([len(w) for w in waveforms])
    values = np.zeros((len(waveforms), int(lengths.max())), np.float32)
    for number, wave in enumerate(waveforms):
        values[number, : len(wave)] = wave
    return {
        "input_values": torch.from_numpy(values),
        "input_values_mask": torch.arange(values.shape[1]) < lengths[:, None],
    }


def pad_frames(sounds: Sequence[Sounding]) -> dict[str, Tensor]:
    """Kept frames padded with zeros to the longest [K, T, C], their mask, and which sounds they are of; or nothing."""
    kept = [sound.frames_TC for sound in sounds if isinstance(sound, Frames)]
    if not kept:
        return {}
    lengths = torch.tensor([len(frames) for frames in kept])
    frames_KTC = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
    return {
        "audio_frames": frames_KTC,
        "audio_frames_mask": torch.arange(frames_KTC.shape[1]) < lengths[:, None],
        "audio_is_cached": torch.tensor([isinstance(sound, Frames) for sound in sounds]),
    }
