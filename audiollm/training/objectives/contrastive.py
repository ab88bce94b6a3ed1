"""Symmetric InfoNCE between a clip's pooled sound and its pooled words, with a learned temperature.

The sound is what the encoder, or the connector behind it, makes of it; the words are the clip's `description` or
`transcript`, as the mean of the language model's text embeddings; each side has a linear head. It depends on the batch
by nature: every other clip of the micro-batch is a negative.
Shapes: N clips, T frames or vectors, C their width, U tokens, D language model width, E shared width.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from audiollm.conversation import AudioPart
from audiollm.training.objectives.base import Heard, WordsObjective, WordsSettings, width_of
from audiollm.training.objectives.info_nce import info_nce


class ContrastiveSettings(WordsSettings):
    """The shared space of sound and words."""

    target: Literal["description", "transcript"] = "description"
    """Field of the audio part that is brought near to its sound."""
    on: Literal["encoder", "connector"] = "encoder"
    """Whose output is brought near to the words; one of the parts up to there trains."""
    width: PositiveInt = 128
    """Width of the shared space."""
    temperature: PositiveFloat = 0.07
    """Where the learned temperature starts."""


class Contrastive(WordsObjective):
    """Each clip finds its words among the batch's, and each text its clip; clips of the same words are no negatives."""

    Settings = ContrastiveSettings
    needs = "clips with the words that they are to be near to (a `description`, or what `target` says)"

    def __init__(self, settings: ContrastiveSettings, *, model: Any, processor: Any) -> None:
        super().__init__(settings, model=model, processor=processor)
        text_width = model.config.text_config.hidden_size
        self.needs_vectors = settings.on == "connector"
        self.audio_head = nn.Linear(text_width if self.needs_vectors else width_of(model), settings.width)
        self.text_head = nn.Linear(text_width, settings.width)
        self.log_scale = nn.Parameter(torch.tensor(1.0 / settings.temperature).log())

    @classmethod
    def refusal(cls, settings: ContrastiveSettings, train: Collection[str]) -> str | None:
        """Its heads alone would learn where nothing trains before them."""
        before = ("encoder", "encoder_lora", "connector")[: 2 + (settings.on == "connector")]
        if any(part in train for part in before):
            return None
        way_out = "" if settings.on == "connector" else ", or say `on: connector` where that trains"
        return f"acts on the {settings.on}'s output, which nothing in `train:` changes; add `{settings.on}`{way_out}"

    def targets(self, clips: Sequence[AudioPart]) -> dict[str, Tensor]:
        """`contrastive_ids` [N, U], -1 after the end (a clip without words has none)."""
        return {"contrastive_ids": self.word_ids(clips, -1)[0]}

    def count(self, batch: Mapping[str, Any]) -> int:
        """Clips with words."""
        return int((batch["contrastive_ids"][:, 0] >= 0).sum())

    def forward(self, heard: Heard, batch: Mapping[str, Any], num_items: Tensor) -> Tensor:
        """Nats a clip, the mean of both directions."""
        ids_NU = batch["contrastive_ids"]
        sound_NTC, mask_NT = heard.frames_NTC, heard.mask_NT
        if self.needs_vectors:
            sound_NTC, mask_NT = heard.vectors_NKD, heard.vectors_mask_NK
        assert sound_NTC is not None and mask_NT is not None
        told_N = ids_NU[:, 0] >= 0
        audio_NE = self.pool_audio(sound_NTC[told_N], mask_NT[told_N])
        text_NE = self.pool_text(heard.model, ids_NU[told_N])
        logits_NN = self.log_scale.clamp(max=4.6).exp() * audio_NE @ text_NE.T
        same_NN = (ids_NU[told_N][:, None] == ids_NU[told_N][None]).all(-1)
        itself_N = torch.arange(len(logits_NN), device=logits_NN.device)
        both = info_nce(logits_NN, itself_N, same_NN) + info_nce(logits_NN.T, itself_N, same_NN)
        return both / 2 / num_items

    def pool_audio(self, frames_NTC: Tensor, mask_NT: Tensor) -> Tensor:
        """Mean over a clip's frames or vectors, projected, of length one: [N, E]."""
        mean_NC = (frames_NTC.float() * mask_NT[..., None]).sum(1) / mask_NT.sum(1, keepdim=True)
        return F.normalize(self.audio_head(mean_NC), dim=-1)

    def pool_text(self, model: Any, ids_NU: Tensor) -> Tensor:
        """Mean over a text's embeddings, projected, of length one: [N, E]."""
        known_NU = ids_NU >= 0
        embeds_NUD = model.get_input_embeddings()(ids_NU.clamp(min=0)).detach().float()
        mean_ND = (embeds_NUD * known_NU[..., None]).sum(1) / known_NU.sum(1, keepdim=True)
        return F.normalize(self.text_head(mean_ND), dim=-1)
