"""Which audio language models of transformers are known, and what one must know of each.

All of them are a base model (`native.model`) of encoder, connector and `language_model`, with an `lm_head` beside it;
their processors turn one clip into placeholders and features. Here stands what is left to say.
Not here: how they are loaded (loading.py), how they are run (modeling.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

NATIVE = "audiollm_native"
"""The `model_type` of our checkpoints of them."""
HOME = "native."
"""Parameters of such a model are named with this before transformers' own name."""
BASE = "native.model."
LANGUAGE_MODEL = f"{BASE}language_model."

# As mistral-common writes it, which transformers' processor asks and we need not.
VOXTRAL_TEMPLATE = (
    "{{ '<s>' }}{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{ '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}"
    "{%- elif message.role == 'user' -%}{{ '[INST]' }}"
    "{%- for part in message.content -%}"
    "{{ '[BEGIN_AUDIO][AUDIO]' if part.type == 'audio' else part.text }}"
    "{%- endfor -%}{{ '[/INST]' }}"
    "{%- else -%}{{ message.content + '</s>' }}{%- endif -%}"
    "{%- endfor -%}"
)

Features = dict[str, torch.Tensor]
"""What a model's own processor makes of one clip, by the names of its `forward`."""


def of_window(processor: Any) -> float:
    """Seconds of the window beyond which a Whisper feature extractor would cut."""
    return float(processor.feature_extractor.n_samples / processor.feature_extractor.sampling_rate)


def of_processor(processor: Any) -> float:
    """Seconds up to which a processor splits a clip into windows: whole ones."""
    window = processor.feature_extractor.chunk_length
    return float(processor.max_audio_len // window * window)


def thirty(processor: Any) -> float:
    """Seconds after which Gemma's feature extractor cuts, by its default."""
    return 30.0


def hear_voxtral(processor: Any, samples: Any) -> tuple[int, Features]:
    """Voxtral's processor takes sound in conversations alone: its windows of 30 s, and their number of tokens."""
    extractor = processor.feature_extractor
    settings = {name: value for name, value in processor.audio_kwargs.items() if name != "max_source_positions"}
    mel_FT = extractor(samples, **settings)["input_features"][0]
    length = processor.audio_kwargs["max_source_positions"]
    windows_WFT = mel_FT.reshape(len(mel_FT), -1, length).transpose(0, 1)
    return len(windows_WFT) * length // 8, {"input_features": windows_WFT}  # the encoder halves, four make one vector


def granite_vectors(base: Any, clip: Features) -> torch.Tensor:
    """Granite's conformer and Q-Former know no mask."""
    heard = base.get_audio_features(clip["input_features"], return_dict=True)
    return heard.pooler_output[clip["input_features_mask"]]


def fun_vectors(base: Any, clip: Features) -> torch.Tensor:
    """Fun-ASR's adaptor attends to the padding of a batch."""
    return base.get_audio_features(clip["input_features"], clip["input_features_mask"], return_dict=True).pooler_output


def omni_vectors(base: Any, clip: Features) -> torch.Tensor:
    """Qwen3-Omni's convolutions run over the padding of a chunk, which is as long as the longest of a batch."""
    heard = base.get_audio_features(clip["input_features"], clip["feature_attention_mask"], return_dict=True)
    return heard.last_hidden_state


@dataclass(frozen=True)
class Native:
    """One kind of model.

    `encoder` and `connector` are names below the base model; a connector may be a part of the encoder. `clip_limit`
    says how many seconds of a clip its processor takes (None: all), `longest` the same in words, of the public ones.
    `vectors`: what a clip becomes for the language model by itself [M, D], where the encoder would hear the padding of
    a batch.
    `shares_audio`: questions can share their clip, if the language model's attention lets them.
    """

    title: str
    model_class: str
    longest: str
    encoder: str = "audio_tower"
    connector: tuple[str, ...] = ("multi_modal_projector",)
    clip_limit: Callable[[Any], float | None] = lambda processor: None
    vectors: Callable[[Any, Features], torch.Tensor] | None = None
    shares_audio: bool = True
    chat_template: str | None = None
    hear: Callable[[Any, Any], tuple[int, Features]] | None = None

    def part_of(self, name: str) -> str | None:
        """The part that a parameter belongs to, by its name below the base model."""
        if any(name.startswith(f"{connector}.") for connector in self.connector):
            return "connector"
        if name.startswith(f"{self.encoder}."):
            return "encoder"
        return "llm" if name.startswith("language_model.") else None


ANY = "any"
WINDOWS = "in windows of 30 s"

QWEN2_5_OMNI = Native(
    "Qwen2.5-Omni (thinker)", "Qwen2_5OmniThinkerForConditionalGeneration", "300 s", connector=("audio_tower.proj",),
    clip_limit=of_window,
)  # fmt: skip
QWEN3_OMNI = Native(
    "Qwen3-Omni (thinker)", "Qwen3OmniMoeThinkerForConditionalGeneration", ANY,
    connector=("audio_tower.proj1", "audio_tower.proj2"), vectors=omni_vectors,
)  # fmt: skip
GRANITE: Mapping[str, Any] = {
    "longest": ANY, "encoder": "encoder", "connector": ("projector",), "vectors": granite_vectors,
}  # fmt: skip
GEMMA: Mapping[str, Any] = {
    "longest": "30 s", "connector": ("embed_audio",), "clip_limit": thirty,
}  # fmt: skip

NATIVES: dict[str, Native] = {
    "qwen2_audio": Native("Qwen2-Audio", "Qwen2AudioForConditionalGeneration", "30 s", clip_limit=of_window),
    "qwen2_5_omni": QWEN2_5_OMNI,
    "qwen2_5_omni_thinker": QWEN2_5_OMNI,
    "qwen3_omni_moe": QWEN3_OMNI,
    "qwen3_omni_moe_thinker": QWEN3_OMNI,
    "qwen3_asr": Native("Qwen3-ASR", "Qwen3ASRForConditionalGeneration", ANY),
    "voxtral": Native(
        "Voxtral", "VoxtralForConditionalGeneration", f"{ANY}, {WINDOWS}", chat_template=VOXTRAL_TEMPLATE,
        hear=hear_voxtral,
    ),
    "audioflamingo3": Native(
        "Audio Flamingo 3", "AudioFlamingo3ForConditionalGeneration", f"600 s, {WINDOWS}", clip_limit=of_processor
    ),
    "musicflamingo": Native(
        "Music Flamingo", "MusicFlamingoForConditionalGeneration", f"1200 s, {WINDOWS}", clip_limit=of_processor
    ),
    "glmasr": Native("GLM-ASR", "GlmAsrForConditionalGeneration", f"630 s, {WINDOWS}", clip_limit=of_processor),
    "fun_asr_nano": Native("Fun-ASR-Nano", "FunAsrNanoForConditionalGeneration", ANY, vectors=fun_vectors),
    "granite_speech": Native("Granite Speech", "GraniteSpeechForConditionalGeneration", **GRANITE),
    "granite_speech_plus": Native("Granite Speech Plus", "GraniteSpeechPlusForConditionalGeneration", **GRANITE),
    "gemma3n": Native("Gemma 3n", "Gemma3nForConditionalGeneration", **GEMMA, shares_audio=False),
    "gemma4": Native("Gemma 4", "Gemma4ForConditionalGeneration", **GEMMA),
}  # fmt: skip
"""By `model_type`."""


def native_part(name: str) -> str:
    """The part of a parameter by its whole name; "rest" for what neither hears nor reads (a vision tower)."""
    if not name.startswith(BASE):
        return "llm"  # the vocabulary projection
    below = name.removeprefix(BASE)
    found = {part for kind in NATIVES.values() if (part := kind.part_of(below))}
    if "connector" in found:  # it may lie inside the encoder
        return "connector"
    return found.pop() if found else "rest"


def support_table() -> str:
    """What each model supports, as a table in Markdown."""
    columns = ("model", "longest clip", "questions share their clip", "clips of a batch", "`model_type`")
    lines = [columns, ("---",) * len(columns)]
    for title in dict.fromkeys(kind.title for kind in NATIVES.values()):
        types = [name for name, kind in NATIVES.items() if kind.title == title]
        kind = NATIVES[types[0]]
        shares = "yes" if kind.shares_audio else "no, each hears it by itself"
        together = "one by one" if kind.vectors else "together"
        named = ", ".join(f"`{name}`" for name in types)
        lines.append((title, kind.longest, shares, together, named))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
