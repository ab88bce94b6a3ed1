"""Connectionist temporal classification: the encoder spells a text of the clip, in time, with its own linear head.

The text is the clip's `transcript` or `description`, in the tokens of the language model; a clip without is left out.
Shapes: N clips, T frames, C width, V tokens, U target tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from audiollm.conversation import AudioPart
from audiollm.training.objectives.base import Heard, WordsObjective, WordsSettings, width_of


class CTCSettings(WordsSettings):
    """Which words of the clip the encoder learns to spell."""

    target: Literal["transcript", "description"] = "transcript"
    """Field of the audio part: the words spoken, or the scene in words."""


class CTC(WordsObjective):
    """Negative log-likelihood of the target tokens under all alignments; a sum over target tokens."""

    Settings = CTCSettings
    needs = "clips with the words that they are to be spelled in (a `transcript`, or what `target` says)"

    def __init__(self, settings: CTCSettings, *, model: Any, processor: Any) -> None:
        super().__init__(settings, model=model, processor=processor)
        self.blank = len(self.tokenizer)
        self.head = nn.Linear(width_of(model), self.blank + 1)

    def targets(self, clips: Sequence[AudioPart]) -> dict[str, Tensor]:
        """`ctc_labels` [N, U] (blank after the end) and `ctc_lengths` [N], 0 where a clip has no text."""
        labels, lengths = self.word_ids(clips, self.blank)
        return {"ctc_labels": labels, "ctc_lengths": lengths}

    def count(self, batch: Mapping[str, Any]) -> int:
        """Target tokens."""
        return int(batch["ctc_lengths"].sum())

    def forward(self, heard: Heard, batch: Mapping[str, Any], num_items: Tensor) -> Tensor:
        """Nats a target token; a text too long for its frames counts nothing."""
        assert heard.frames_NTC is not None and heard.mask_NT is not None
        spoken_N = batch["ctc_lengths"] > 0
        logp_NTV = F.log_softmax(self.head(heard.frames_NTC[spoken_N].float()), dim=-1)
        total = F.ctc_loss(
            logp_NTV.transpose(0, 1),
            batch["ctc_labels"][spoken_N],
            heard.mask_NT[spoken_N].sum(-1),
            batch["ctc_lengths"][spoken_N],
            blank=self.blank,
            reduction="sum",
            zero_infinity=True,
        )
        return total / num_items
