"""The processor of a native model: its own one makes placeholders and features, our renderer writes the prompt.

    messages ─► the model's chat template ─► text, one audio token a clip ─► ids, in which it stands as often as needed
    one clip ─► the model's own processor ─► how often that is, what stands around it, and the features

A clip is always processed by itself, so that its features do not depend on its neighbours.
Not here: padding of features into a batch (modeling.py).
Shapes: B prompts, S tokens.
"""

import bisect
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import AutoProcessor

from audiollm.models.control_tokens import MARK
from audiollm.models.native.table import NATIVES, Features, Native
from audiollm.models.processing import PromptWriter
from audiollm.models.rendering import SENTINEL, Renderer, check_template_kwargs

PROMPTS = "prompts.json"
TOKENS = "num_audio_tokens"
"""Among a clip's features: how many placeholders it takes."""
OF_TEXT = frozenset(("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids"))


class NativeRenderer(Renderer):
    """Messages in the form that a native model's chat template takes, and what its processor puts around a clip."""

    between = ""

    def __init__(self, tokenizer: Any, chat_template: str, audio_token: str, around: tuple[str, str]) -> None:
        super().__init__(tokenizer, chat_template, audio_token)
        self.around = around
        self._written = re.compile(f"{re.escape(audio_token)}(?!{MARK})")
        self._takes_parts: dict[str, bool] = {}

    def text(self, messages: Any, *, add_generation_prompt: bool, **template_kwargs: Any) -> str:
        """The rendered conversation, with what stands around each clip."""
        text = super().text(messages, add_generation_prompt=add_generation_prompt, **template_kwargs)
        return self._written.sub(lambda found: self.around[0] + found[0] + self.around[1], text)

    def _apply(self, messages: list[dict[str, str]], *, add_generation_prompt: bool, **template_kwargs: Any) -> str:
        said: Any = [self._said(message) for message in messages]
        return super()._apply(said, add_generation_prompt=add_generation_prompt, **template_kwargs)

    def _said(self, message: dict[str, str]) -> dict[str, Any]:
        """A message as a list of parts, or as text in which the audio token stands, whichever the template knows."""
        role = message["role"]
        if role not in self._takes_parts:
            self._takes_parts[role] = self._finds_parts(role)
        return self._in_parts(message) if self._takes_parts[role] else message

    def _finds_parts(self, role: str) -> bool:
        """Found by trying: what is no list to a template is printed with its brackets, or refused."""
        trial = [{"role": "user", "content": self.audio_token + SENTINEL}]
        if role != "user":
            spoken = {"role": role, "content": SENTINEL}
            trial = [spoken, *trial] if role == "system" else [*trial, spoken]
        said = [self._in_parts(message) if message["role"] == role else self._said(message) for message in trial]
        try:
            text = super()._apply(said, add_generation_prompt=False)
        except (ValueError, TypeError, TemplateError):
            return False
        found = SENTINEL in text and "'type'" not in text
        return found and (role != "user" or self._written.search(text) is not None)

    def _in_parts(self, message: dict[str, str]) -> dict[str, Any]:
        parts: list[dict[str, str]] = []
        for number, words in enumerate(self._written.split(message["content"])):
            if number:
                parts.append({"type": "audio"})
            if words:
                parts.append({"type": "text", "text": words})
        return {**message, "content": parts}


class NativeProcessor(PromptWriter):
    """What training, evaluation and chat ask of a processor, over the model's own one (`native`)."""

    def __init__(
        self,
        native: Any,
        kind: Native,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
    ) -> None:
        self.native = native
        self.kind = kind
        self.tokenizer = native.tokenizer
        self.chat_template = kind.chat_template or native.chat_template or self.tokenizer.chat_template
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.system_prompt = system_prompt
        self.audio_token = native.audio_token
        self.audio_token_id = int(self.tokenizer.convert_tokens_to_ids(self.audio_token))
        self.longest_clip_s = kind.clip_limit(native)
        self._lengths: list[int] = []  # of clips that the processor was asked about, in order
        self._counts: dict[int, int] = {}
        check_template_kwargs(str(self.chat_template or ""), self.chat_template_kwargs)

    @classmethod
    def from_pretrained(cls, folder: str | Path, model_type: str, revision: str | None = None) -> "NativeProcessor":
        """The processor of a public checkpoint, or one that was saved here, with what was said about prompts."""
        kind = NATIVES[model_type]
        ours = {"mistral_format": False} if kind.hear else {}  # mistral-common's would not tell what people typed apart
        native = AutoProcessor.from_pretrained(folder, revision=revision, **ours)
        said = Path(folder, PROMPTS)
        return cls(native, kind, **(json.loads(said.read_text()) if said.is_file() else {}))

    def save_pretrained(self, folder: str | Path) -> None:
        """The model's own processor, and what was said about prompts."""
        self.native.save_pretrained(folder)
        said = {"chat_template_kwargs": self.chat_template_kwargs, "system_prompt": self.system_prompt}
        Path(folder, PROMPTS).write_text(json.dumps(said, indent=1) + "\n")

    @property
    def sampling_rate(self) -> int:
        """Hz."""
        return int(self.extractor.sampling_rate)

    @property
    def extractor(self) -> Any:
        """What makes features of sound."""
        return getattr(self.native, "audio_processor", None) or self.native.feature_extractor

    def num_audio_tokens(self, num_samples: int) -> int:
        """Audio tokens for a clip of `num_samples`, as the model's own processor counts them.

        More sound never takes fewer, so between two lengths of one count there is nothing to ask.
        """
        if num_samples <= 0:
            raise ValueError(f"a clip has {num_samples} samples; it needs at least one")
        if self.longest_clip_s is not None:
            num_samples = min(num_samples, int(self.longest_clip_s * self.sampling_rate))
        if num_samples not in self._counts:
            place = bisect.bisect_left(self._lengths, num_samples)
            around = {self._counts[length] for length in self._lengths[max(place - 1, 0) : place + 1]}
            if len(around) == 1 and 0 < place < len(self._lengths):
                return around.pop()
            self._counts[num_samples] = self._asked(np.zeros(num_samples, np.float32))[0]
            self._lengths.insert(place, num_samples)
        return self._counts[num_samples]

    def features(self, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
        """What the model's processor makes of each clip, under the one name by which a batch carries it."""
        if not waveforms:
            return {}
        return {"features": [self._features_of(waveform) for waveform in waveforms]}

    def _features_of(self, samples: np.ndarray) -> Features:
        count, features = self._asked(samples)
        return {TOKENS: torch.tensor(count), **features}

    def _asked(self, samples: np.ndarray) -> tuple[int, Features]:
        """How many placeholders a clip takes, and its features."""
        if self.kind.hear is not None:
            return self.kind.hear(self.native, samples)
        made = self._made_of(samples)
        features = {name: torch.as_tensor(value) for name, value in made.items() if name not in OF_TEXT}
        return int((torch.as_tensor(made["input_ids"]) == self.audio_token_id).sum()), features

    def _made_of(self, samples: np.ndarray) -> Mapping[str, Any]:
        return dict(
            self.native(
                text=[self.audio_token],
                audio=[samples],
                return_tensors="pt",
                text_kwargs={"add_special_tokens": False},
                audio_kwargs={"sampling_rate": self.sampling_rate},
            )
        )

    def _around(self) -> tuple[str, str]:
        """What the model's processor writes before and after the placeholders of a clip."""
        if self.kind.hear is not None:
            return "", ""
        ids = torch.as_tensor(self._made_of(np.zeros(self.sampling_rate, np.float32))["input_ids"])[0].tolist()
        first, last = ids.index(self.audio_token_id), len(ids) - ids[::-1].index(self.audio_token_id)
        if ids.count(self.audio_token_id) != last - first:
            raise ValueError(
                f"{self.kind.title} writes between the placeholders of a clip, which is not supported here"
            )
        before, after = (self.tokenizer.decode(part, skip_special_tokens=False) for part in (ids[:first], ids[last:]))
        own = self.tokenizer.decode(self.tokenizer.encode("a", add_special_tokens=False)).partition("a")[0]
        return before.removeprefix(own), after  # without the space that a tokenizer puts before a text

    def fingerprint(self) -> str:
        """Stands for all that decides how many tokens messages take."""
        words = json.loads(self.tokenizer.backend_tokenizer.to_str())
        used = {name: value for name, value in words.items() if name not in ("padding", "truncation")}
        about = [self.kind.title, self.extractor.to_dict(), self.chat_template_kwargs, self.system_prompt]
        known = [used, self.renderer.template, *about]
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _make_renderer(self, chat_template: str) -> Renderer:
        return NativeRenderer(self.tokenizer, chat_template, self.audio_token, self._around())

    def _batch(
        self, rows: Sequence[list[int]], waveforms: Sequence[np.ndarray], padding: Any, return_tensors: Any
    ) -> dict[str, Any]:
        """Padded on the left [B, S], with the features of all clips."""
        longest = max(len(row) for row in rows)
        padded = [[self._pad_id] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        tokens = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
        return tokens | self.features(waveforms)
