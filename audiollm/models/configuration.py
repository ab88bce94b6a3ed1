"""The configuration of an audio language model, or of two towers: the parts, and where their weights come from."""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from audiollm.models.encoders import encoder_config, encoder_of
from audiollm.models.lengths import num_audio_tokens

PARTS = ("encoder", "encoder_lora", "connector", "lora", "llm", "text", "projection")
"""What a stage can train, by name; the last two are of two towers (two_towers.py)."""


class AudioLLMConfig(PreTrainedConfig):
    """Sizes of the three parts, and for each pretrained part the name, revision and fingerprint of its base.

    `bases` maps "encoder" and "llm" to {"checkpoint", "revision", "fingerprint"}; a part without a base was made from
    its config. `quantize` says how the language model is held: "nf4" (4 bits), "int8", or None (as it is).
    """

    model_type = "audiollm"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "audio_config": AutoConfig}

    audio_config: Any = None  # a dictionary becomes a config object
    text_config: Any = None
    connector_config: Any = None
    audio_token_id: int | None = None
    bases: dict | None = None
    quantize: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.audio_config = encoder_config(self.audio_config)
        self.text_config = as_config(self.text_config)
        if self.text_config is not None:  # only the top-level setting counts for tying
            kwargs["tie_word_embeddings"] = bool(getattr(self.text_config, "tie_word_embeddings", False))
        super().__post_init__(**kwargs)

    @property
    def placeholder_id(self) -> int:
        """`audio_token_id`, once it is known."""
        assert self.audio_token_id is not None
        return self.audio_token_id

    @property
    def sampling_rate(self) -> int:
        """Hz; every clip is resampled to it when it is loaded."""
        return int(encoder_of(self.audio_config.to_dict()).sampling_rate)

    def num_audio_tokens(self, num_samples: int) -> int:
        """Audio tokens for a clip of `num_samples` at `sampling_rate`."""
        return num_audio_tokens(self.audio_config.to_dict(), self.connector_config, num_samples)


class AudioTextConfig(PreTrainedConfig):
    """Sizes of two towers and of the space that they share; `bases` maps "encoder" and "text" as above."""

    model_type = "audiollm_two_towers"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "audio_config": AutoConfig}
    quantize: ClassVar[None] = None

    audio_config: Any = None
    text_config: Any = None
    pooling: str = "mean"
    projection_width: int = 512
    temperature: float = 0.07
    bases: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.audio_config = encoder_config(self.audio_config)
        self.text_config = as_config(self.text_config)
        kwargs["tie_word_embeddings"] = False
        super().__post_init__(**kwargs)

    @property
    def sampling_rate(self) -> int:
        """Hz; every clip is resampled to it when it is loaded."""
        return int(encoder_of(self.audio_config.to_dict()).sampling_rate)


def as_config(config: Any) -> Any:
    """A dictionary becomes the config object of its `model_type`."""
    if isinstance(config, dict):
        return AutoConfig.for_model(**config)
    return config
