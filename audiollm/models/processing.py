"""The processor: messages with sound become the tensors that the model reads; no weights are needed for it.

Not here: token ids from messages (models/rendering.py), decoding of sound (audio.py).
Shapes: B conversations, S tokens, N clips of all conversations in their order, L samples.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AddedToken,
    AutoFeatureExtractor,
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SequenceFeatureExtractor,
)

from audiollm import audio as sound
from audiollm.conversation import AudioPart, Message, TextPart, parse_messages
from audiollm.models.configuration import AudioLLMConfig
from audiollm.models.control_tokens import AUDIO_TOKEN
from audiollm.models.lengths import num_audio_tokens
from audiollm.models.rendering import Rendered, Renderer, check_template_kwargs, expand, without_marks

Prompt = tuple[Sequence[Message], Sequence[np.ndarray]]


class AudioLLMFeatureExtractor(SequenceFeatureExtractor):
    """Pads waveforms into one tensor; spectrograms are the encoders' own business."""

    model_input_names: ClassVar[list[str]] = ["input_values", "input_values_mask"]

    def __init__(
        self, feature_size: int = 1, sampling_rate: int = 16_000, padding_value: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)

    def __call__(
        self, waveforms: Sequence[np.ndarray], sampling_rate: int | None = None, return_tensors: str | None = None
    ) -> BatchFeature:
        """Waveforms [L] to `input_values` [N, L] float32 and `input_values_mask` [N, L], False after a clip's end."""
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"the sound has {sampling_rate} Hz; this model listens at {self.sampling_rate} Hz")
        lengths = [len(waveform) for waveform in waveforms]
        if not lengths or min(lengths) == 0:
            raise ValueError("a clip without samples cannot be heard; leave it out")
        values_NL = np.zeros((len(lengths), max(lengths)), np.float32)
        for row_L, waveform in zip(values_NL, waveforms, strict=True):
            row_L[: len(waveform)] = waveform
        mask_NL = np.arange(max(lengths)) < np.array(lengths)[:, None]
        return BatchFeature({"input_values": values_NL, "input_values_mask": mask_NL}, tensor_type=return_tensors)


class PromptWriter:
    """Prompts and answers as token ids, and generated ids as words: what every processor here does in one way.

    A class that has it says how many tokens a clip takes, and puts rows and clips into a batch.
    """

    tokenizer: Any
    chat_template: Any
    chat_template_kwargs: dict[str, Any]
    system_prompt: str | None
    audio_token = AUDIO_TOKEN
    longest_clip_s: float | None = None
    """Seconds of a clip that the model can hear; None where there is no end."""
    _renderer: Renderer | None = None

    def num_audio_tokens(self, num_samples: int) -> int:
        """Audio tokens for a clip of `num_samples` at `sampling_rate`."""
        raise NotImplementedError

    def _batch(
        self,
        rows: Sequence[list[int]],
        waveforms: Sequence[np.ndarray],
        padding: bool | str | None,
        return_tensors: str | None,
    ) -> Mapping[str, Any]:
        raise NotImplementedError

    @property
    def sampling_rate(self) -> int:
        """Hz; every clip is resampled to it when it is loaded."""
        raise NotImplementedError

    def refuse_longer(self, clip: AudioPart, num_samples: int) -> None:
        """AudioError for a clip that the model would hear only the beginning of."""
        seconds = num_samples / self.sampling_rate
        if self.longest_clip_s is not None and seconds > self.longest_clip_s:
            raise sound.AudioError(
                sound.name_of(clip.audio),
                f"has {seconds:.1f} s, and this model hears at most {self.longest_clip_s:g} s of a clip; cut it, "
                "or give a part of it by `start` and `end`",
            )

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end an answer: the template's end of turn, and the tokenizer's end of sequence."""
        ends = {self.renderer.turn(**self.chat_template_kwargs).end[-1], self.tokenizer.eos_token_id}
        return sorted(end for end in ends if end is not None)

    @property
    def renderer(self) -> Renderer:
        """What writes token ids; made when it is first needed."""
        if self._renderer is None:
            self._renderer = self._renderer_for(self.chat_template)
        return self._renderer

    def render(
        self,
        messages: Sequence[Message],
        num_samples: Sequence[int],
        *,
        supervise: str = "last",
        **template_kwargs: Any,
    ) -> list[Rendered]:
        """A conversation to learn from: ids, and which are supervised; `num_samples` of its clips, in their order.

        Usually one sequence; with supervise="all" more where the template rewrites history; none where every answer
        says `loss: false`. A sequence holds the conversation's first `num_clips` clips.
        """
        lengths = self._audio_lengths(num_samples, sum(len(message.clips) for message in messages))
        settings = self.chat_template_kwargs | template_kwargs
        return self.renderer.render(self._opened(messages), lengths, supervise=supervise, **settings)

    def render_prompt(
        self, messages: Sequence[Message], num_samples: Sequence[int], **template_kwargs: Any
    ) -> list[int]:
        """Ids that generation sees: the messages and the opening of the assistant's turn."""
        lengths = self._audio_lengths(num_samples, sum(len(message.clips) for message in messages))
        return self.renderer.prompt_ids(
            self._opened(messages), lengths, **(self.chat_template_kwargs | template_kwargs)
        )

    def collate_prompts(self, prompts: Sequence[Prompt], **template_kwargs: Any) -> dict[str, Tensor]:
        """The inputs of `generate` for messages and the waveforms of their clips.

        `input_ids` [B, S] padded on the left, `attention_mask` [B, S]; and where there is sound `input_values` [N, L],
        `input_values_mask` [N, L].
        """
        rows = [
            self.render_prompt(messages, [len(waveform) for waveform in waveforms], **template_kwargs)
            for messages, waveforms in prompts
        ]
        return dict(self._batch(rows, [waveform for _, waveforms in prompts for waveform in waveforms], True, "pt"))

    def decode_answer(self, ids: Sequence[int] | Tensor) -> str:
        """The words of a generated answer: up to its end of turn, without special tokens and outer white space."""
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        ends = [ids.index(stop) for stop in self.stop_token_ids if stop in ids]
        return str(self.tokenizer.decode(ids[: min(ends, default=len(ids))], skip_special_tokens=True)).strip()

    def _renderer_for(self, chat_template: str | dict[str, str] | None) -> Renderer:
        if isinstance(chat_template, dict):
            chat_template = chat_template.get("default")
        if chat_template is None:
            raise ValueError(
                f"the tokenizer {self.tokenizer.name_or_path!r} has no chat template; take the instruct version of the "
                "language model, or set tokenizer.chat_template (for a model trained from scratch there is "
                "audiollm.models.rendering.DEFAULT_CHAT_TEMPLATE)"
            )
        return self._make_renderer(chat_template)

    def _make_renderer(self, chat_template: str) -> Renderer:
        return Renderer(self.tokenizer, chat_template)

    def _audio_lengths(self, num_samples: Sequence[int], num_clips: int) -> list[int]:
        if len(num_samples) != num_clips:
            raise ValueError(f"the messages hold {num_clips} clips, but the lengths of {len(num_samples)} were given")
        return [self.num_audio_tokens(length) for length in num_samples]

    def _opened(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages, after the system prompt where they bring none."""
        if self.system_prompt is None or (messages and messages[0].role == "system"):
            return tuple(messages)
        return (Message("system", (TextPart(self.system_prompt),)), *messages)

    @property
    def _pad_id(self) -> int:
        """Never attended to: any id will do where the tokenizer has no padding token."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)


class AudioLLMProcessor(PromptWriter, ProcessorMixin):
    """Tokenizer, chat template and the sizes that say how many tokens a clip takes.

    `audio_config` and `connector_config` are the model's own, as plain dictionaries. `chat_template_kwargs` are
    settings of the chat template (`{"enable_thinking": False}`); calls may override them. A tokenizer without
    `<|audio|>` gets it, as its next id.
    """

    def __init__(
        self,
        feature_extractor: AudioLLMFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        audio_config: Mapping[str, Any] | None = None,
        connector_config: Mapping[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        if AUDIO_TOKEN not in tokenizer.get_vocab():
            tokenizer.add_tokens([AddedToken(AUDIO_TOKEN, special=True, normalized=False)], special_tokens=True)
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.audio_config = dict(audio_config or {})
        self.connector_config = dict(connector_config or {})
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.system_prompt = system_prompt
        self.audio_token_id = tokenizer.get_vocab()[AUDIO_TOKEN]
        self._renderer: Renderer | None = None

    @classmethod
    def from_parts(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        audio_config: Mapping[str, Any],
        connector_config: Mapping[str, Any],
        sampling_rate: int,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
    ) -> "AudioLLMProcessor":
        """A processor for a language model's tokenizer, an encoder and a connector."""
        check_template_kwargs(tokenizer.chat_template or "", chat_template_kwargs or {})
        extractor = AudioLLMFeatureExtractor(sampling_rate=sampling_rate)
        return cls(extractor, tokenizer, audio_config, connector_config, chat_template_kwargs, system_prompt)

    @property
    def sampling_rate(self) -> int:
        """Hz; every clip is resampled to it when it is loaded."""
        return int(self.feature_extractor.sampling_rate)

    def num_audio_tokens(self, num_samples: int) -> int:
        """Audio tokens for a clip of `num_samples` at `sampling_rate`."""
        return num_audio_tokens(self.audio_config, self.connector_config, num_samples)

    def fingerprint(self) -> str:
        """Stands for all that decides how many tokens messages take: words, template, settings, sizes of the parts."""
        tokenizer: Any = self.tokenizer
        words = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else tokenizer.get_vocab()
        used = {name: value for name, value in words.items() if name not in ("padding", "truncation")}
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        about = [self.audio_config, self.connector_config, self.sampling_rate, self.system_prompt]
        known = [used, special, self.renderer.template, self.chat_template_kwargs, *about]
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        padding: bool | str = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **template_kwargs: Any,
    ) -> Any:
        """One conversation (a list of message dictionaries) or several, as text or as the model's inputs.

        An audio part is {"type": "audio", "audio" | "path" | "url": path, bytes, data: URI or array at
        `sampling_rate`}, with optional "start" and "end" in seconds. What people typed is never a control token.
        Other arguments reach the template.
        """
        options = {"return_tensors": return_tensors, "padding": padding} | dict(processor_kwargs or {})
        batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        conversations = [self._parse(one) for one in (conversation if batched else [conversation])]
        renderer = self.renderer if chat_template is None else self._renderer_for(chat_template)
        settings = self.chat_template_kwargs | template_kwargs
        texts = [
            renderer.text(messages, add_generation_prompt=add_generation_prompt, **settings)
            for messages in conversations
        ]
        if not tokenize:
            return [without_marks(text) for text in texts] if batched else without_marks(texts[0])
        clips = [clip for messages in conversations for message in messages for clip in message.clips]
        waveforms = [clip.load(self.sampling_rate) for clip in clips]
        batch = self._expanded_batch([renderer.control.encode(text) for text in texts], waveforms, options)
        return batch if return_dict else batch["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Any = None,
        *,
        return_tensors: str | None = None,
        padding: bool | str = False,
        return_mm_token_type_ids: bool = False,
        return_text_replacement_offsets: bool = False,
    ) -> BatchFeature:
        """Texts that `apply_chat_template(tokenize=False)` rendered, and the clips for their placeholders, in order.

        The last two are what servers ask of every processor of transformers: 3 where a token is audio, 0 elsewhere; and
        where each placeholder stood in its text, and what it became.
        """
        texts = [text] if isinstance(text, str) else text
        sources = [] if audio is None else list(audio) if isinstance(audio, (list, tuple)) else [audio]
        waveforms = [sound.load(self._with_rate(source), self.sampling_rate) for source in sources]
        rows = [list(self.tokenizer(one, add_special_tokens=False)["input_ids"]) for one in texts]
        batch = self._expanded_batch(rows, waveforms, {"return_tensors": return_tensors, "padding": padding})
        if return_mm_token_type_ids:
            kinds = self.create_mm_token_type_ids(batch["input_ids"])
            batch["mm_token_type_ids"] = kinds if return_tensors is None else torch.tensor(kinds)
        if return_text_replacement_offsets:
            became = [self.replace_audio_token(batch, number) for number in range(len(waveforms))]
            _, batch["text_replacement_offsets"] = self.get_text_with_replacements(list(texts), [], [], became)
        return batch

    def replace_audio_token(self, audio_inputs: Mapping[str, Any], audio_idx: int, **_: Any) -> str:
        """What the placeholder of one clip becomes: as many as the clip has audio tokens."""
        return self.audio_token * self.num_audio_tokens(int(audio_inputs["input_values_mask"][audio_idx].sum()))

    def _parse(self, conversation: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """Messages in Hugging Face's form: empty fields left out, arrays taken to be at the model's rate."""
        messages = []
        for message in conversation:
            given = {name: value for name, value in message.items() if value is not None}
            if isinstance(given.get("content"), (list, tuple)):
                given["content"] = [self._with_rates(part) for part in given["content"]]
            messages.append(given)
        return self._opened(parse_messages(messages))

    def _with_rates(self, part: Any) -> Any:
        if not isinstance(part, Mapping):
            return part
        return {name: self._with_rate(value) for name, value in part.items() if value is not None}

    def _with_rate(self, source: Any) -> Any:
        if isinstance(source, Tensor):
            source = source.detach().cpu().numpy()
        return (source, self.sampling_rate) if isinstance(source, np.ndarray) else source

    def _expanded_batch(
        self, rows: Sequence[list[int]], waveforms: Sequence[np.ndarray], options: Mapping[str, Any]
    ) -> BatchFeature:
        """Rows with one placeholder a clip, and the clips of all rows."""
        counts = [row.count(self.audio_token_id) for row in rows]
        if sum(counts) != len(waveforms):
            raise ValueError(f"the text has {sum(counts)} audio placeholders, but {len(waveforms)} clips were given")
        lengths = [self.num_audio_tokens(len(waveform)) for waveform in waveforms]
        starts = np.cumsum([0, *counts])
        expanded = [
            expand(row, self.audio_token_id, lengths[start : start + count])
            for row, start, count in zip(rows, starts, counts, strict=False)
        ]
        return self._batch(expanded, waveforms, options.get("padding"), options.get("return_tensors"))

    def _batch(
        self,
        rows: Sequence[list[int]],
        waveforms: Sequence[np.ndarray],
        padding: bool | str | None,
        return_tensors: str | None,
    ) -> BatchFeature:
        """Padded on the left, so that generation continues each row at its own end; tensors need the padding."""
        longest = max(len(row) for row in rows) if padding or return_tensors else 0
        missing = [max(longest - len(row), 0) for row in rows]
        data = {
            "input_ids": [[self._pad_id] * count + row for count, row in zip(missing, rows, strict=True)],
            "attention_mask": [[0] * count + [1] * len(row) for count, row in zip(missing, rows, strict=True)],
        }
        batch = BatchFeature(data, tensor_type=return_tensors)
        if waveforms:
            batch.update(self.feature_extractor(waveforms, return_tensors=return_tensors))
        return batch


AutoFeatureExtractor.register(AudioLLMConfig, AudioLLMFeatureExtractor)
AutoProcessor.register(AudioLLMConfig, AudioLLMProcessor)
