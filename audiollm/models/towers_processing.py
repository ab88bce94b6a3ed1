"""The processor of two towers: texts and waveforms become the tensors that the model reads; no weights are needed.

Shapes: N clips or texts, L samples, U tokens.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from audiollm.conversation import AudioPart
from audiollm.models.configuration import AudioTextConfig
from audiollm.models.encoders import encoder_of
from audiollm.models.processing import AudioLLMFeatureExtractor

UNKNOWN_LENGTH = 1_000_000
"""From here on a tokenizer's `model_max_length` says that nobody told it."""


class AudioTextProcessor(ProcessorMixin):
    """Tokenizer and front end; `audio_config` is the model's own, as a plain dictionary.

    `max_text_tokens` is what the text tower has positions for; a longer text is refused, and never cut.
    """

    def __init__(
        self,
        feature_extractor: AudioLLMFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        audio_config: Mapping[str, Any] | None = None,
        max_text_tokens: int | None = None,
    ) -> None:
        super().__init__(feature_extractor, tokenizer)
        self.audio_config = dict(audio_config or {})
        self.max_text_tokens = max_text_tokens

    @classmethod
    def from_parts(cls, tokenizer: PreTrainedTokenizerBase, config: AudioTextConfig) -> "AudioTextProcessor":
        """The processor of a model with this config."""
        extractor = AudioLLMFeatureExtractor(sampling_rate=config.sampling_rate)
        return cls(extractor, tokenizer, config.audio_config.to_dict(), most_tokens(tokenizer, config.text_config))

    @property
    def sampling_rate(self) -> int:
        """Hz; every clip is resampled to it when it is loaded."""
        return int(self.feature_extractor.sampling_rate)

    def num_audio_tokens(self, num_samples: int) -> int:
        """What a clip of `num_samples` counts in a budget of tokens: its frames."""
        return int(encoder_of(self.audio_config).num_frames(self.audio_config, num_samples))

    def refuse_longer(self, clip: AudioPart, num_samples: int) -> None:
        """No clip is too long: encoders here hear any length, in windows if need be."""

    def fingerprint(self) -> str:
        """Stands for all that decides what a clip counts."""
        known = json.dumps([self.audio_config, self.sampling_rate], sort_keys=True, default=str)
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a text, with those that its tower puts around it; ValueError if they are too many, or none."""
        ids = list(self.tokenizer(text)["input_ids"])
        if not ids:
            raise ValueError("the text has no words")
        if self.max_text_tokens is not None and len(ids) > self.max_text_tokens:
            raise ValueError(
                f"the text has {len(ids):,} tokens, and the text tower knows {self.max_text_tokens:,}; shorten it: "
                f"{text[:60]} ..."
            )
        return ids

    def pad_texts(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """`input_ids` [N, U], padded on the right, and `attention_mask` [N, U]."""
        lengths = torch.tensor([len(one) for one in ids])
        padded = torch.full((len(ids), max([1, *map(len, ids)])), self.tokenizer.pad_token_id or 0)
        for row_U, one in zip(padded, ids, strict=True):
            row_U[: len(one)] = torch.tensor(one, dtype=torch.long)
        return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}

    def __call__(
        self, text: str | Sequence[str] | None = None, audio: Sequence[np.ndarray] | None = None
    ) -> BatchFeature:
        """Texts and waveforms (at `sampling_rate`) as the model's inputs; either may be left out."""
        found: dict[str, Any] = {}
        if text is not None:
            found |= self.pad_texts([self.text_ids(one) for one in ([text] if isinstance(text, str) else text)])
        if audio is not None:
            found |= self.feature_extractor(audio, return_tensors="pt")
        return BatchFeature(found)


def most_tokens(tokenizer: PreTrainedTokenizerBase, text_config: Any) -> int | None:
    """Tokens of the longest text that a tower has positions for; None if it has no table of them."""
    known = [tokenizer.model_max_length] if tokenizer.model_max_length < UNKNOWN_LENGTH else []
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions:
        # RoBERTa and its kin count positions from behind the padding's
        known.append(positions - (text_config.pad_token_id + 1 if "roberta" in text_config.model_type else 0))
    return min(known, default=None)


AutoFeatureExtractor.register(AudioTextConfig, AudioLLMFeatureExtractor)
AutoProcessor.register(AudioTextConfig, AudioTextProcessor)
