"""The loss of two towers: each clip finds its text among those of all ranks, and each text its clip (as CLIP, CLAP).

The heads and the temperature are the model's (models/two_towers.py). Texts of the same words are no negatives.
Shapes: N clips of this rank that have a text, M of all ranks, U tokens, E shared width.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from audiollm.conversation import AudioPart, Row
from audiollm.data.pairs import Words, same_words, texts_of
from audiollm.training.objectives.base import Heard, Objective, ObjectiveSettings
from audiollm.training.objectives.info_nce import gather, info_nce


class TowersSettings(ObjectiveSettings):
    """Which texts two towers learn from."""

    target: Words = "caption"
    """The answers of rows of task `caption` (with their `references`), or the clip's `description` or `transcript`."""


class Towers(Objective):
    """Symmetric InfoNCE over the clips of a micro-batch, on all ranks: a step hears as many negatives as that."""

    Settings = TowersSettings
    needs = "clips with a text (a row of task `caption`, or what `target` says)"
    needs_frames = True

    def __init__(self, settings: TowersSettings, *, model: Any, processor: Any) -> None:
        super().__init__(settings, model=model, processor=processor)
        self.target = settings.target
        self.processor = processor

    @classmethod
    def has_items(cls, settings: TowersSettings, rows: Sequence[Row]) -> bool:
        """Whether any clip has a text."""
        return any(texts_of([row], settings.target, place) for row in rows for place in range(len(row.clips)))

    def targets(self, clips: Sequence[AudioPart]) -> dict[str, Tensor]:
        """Tokens of each clip's text [N, U], their mask, and what texts of the same words share [N], -1 for none."""
        texts = [clip.description or "" for clip in clips]
        padded = self.processor.pad_texts([self.processor.text_ids(text) if text else [] for text in texts])
        groups_N = torch.tensor([number_of(same_words(text)) if text else -1 for text in texts], dtype=torch.long)
        return {"text_ids": padded["input_ids"], "text_mask": padded["attention_mask"], "text_groups": groups_N}

    def count(self, batch: Mapping[str, Any]) -> int:
        """Clips with a text."""
        return int((batch["text_groups"] >= 0).sum())

    def forward(self, heard: Heard, batch: Mapping[str, Any], num_items: Tensor) -> Tensor:
        """Nats a pair, the mean of both directions."""
        told_N = batch["text_groups"] >= 0
        audio_NE, text_NE = self.embed(heard, told_N, batch["text_ids"][told_N], batch["text_mask"][told_N])
        return self.loss(heard.model, audio_NE, text_NE, batch["text_groups"][told_N]) / num_items

    def nothing(self, heard: Heard) -> Tensor:
        """Zero, with the modules run and the vectors of other ranks taken, as those do that have texts."""
        if heard.frames_NTC is None:
            return super().nothing(heard)
        made_up = self.targets([AudioPart(None, description="a")])
        one = {name: tensor.to(heard.frames_NTC.device) for name, tensor in made_up.items()}
        audio_NE, text_NE = self.embed(heard, torch.tensor([0]), one["text_ids"], one["text_mask"])
        return self.loss(heard.model, audio_NE[:0], text_NE[:0], one["text_groups"][:0]) * 0.0

    def embed(self, heard: Heard, chosen_N: Tensor, ids_NU: Tensor, mask_NU: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors [N, E] of some of the clips, and of texts."""
        assert heard.frames_NTC is not None and heard.mask_NT is not None
        model: Any = heard.model
        audio_NE = model.embed_frames(heard.frames_NTC[chosen_N], heard.mask_NT[chosen_N])
        return audio_NE, model.get_text_embeds(ids_NU, mask_NU)

    def loss(self, model: Any, audio_NE: Tensor, text_NE: Tensor, groups_N: Tensor) -> Tensor:
        """Summed over this rank's pairs, the candidates being all ranks'; in float32, as a scale of 100 needs."""
        audio_ME, text_ME, groups_M, first = audio_NE, text_NE, groups_N, 0
        if self.training and model.trains_on_ranks:
            both, first = gather(torch.cat([audio_NE, text_NE], dim=1))
            audio_ME, text_ME = both.chunk(2, dim=1)
            groups_M = gather(groups_N[:, None])[0][:, 0]
        itself_N = first + torch.arange(len(audio_NE), device=audio_NE.device)
        same_NM = groups_N[:, None] == groups_M
        with torch.autocast(audio_NE.device.type, enabled=False):
            scale = model.projection.scale.float()
            to_text = info_nce(scale * audio_NE @ text_ME.T, itself_N, same_NM)
            to_audio = info_nce(scale * text_NE @ audio_ME.T, itself_N, same_NM)
        return (to_text + to_audio) / 2


def number_of(text: str) -> int:
    """A number that stands for a text, on every rank the same."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
