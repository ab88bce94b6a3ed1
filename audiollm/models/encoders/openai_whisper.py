"""Checkpoints of OpenAI's `whisper` package: its weights under transformers' names; the encoder is whisper.py's.

    encoder: {name: openai_whisper, checkpoint: small}          a name that the package knows, and downloads
    encoder: {name: openai_whisper, checkpoint: tuned/base.pt}  a file in its format; the package is not needed
Not here: Whisper on the Hugging Face hub, which needs no `name`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperConfig

from audiollm.models.encoders.loading import around
from audiollm.models.encoders.whisper import WhisperAudioEncoder

SUFFIX = ".pt"
NAMES = {
    r"positional_embedding": "embed_positions.weight",
    r"ln_post\.": "layer_norm.",
    r"blocks\.": "layers.",
    r"\.attn_ln\.": ".self_attn_layer_norm.",
    r"\.attn\.query\.": ".self_attn.q_proj.",
    r"\.attn\.key\.": ".self_attn.k_proj.",
    r"\.attn\.value\.": ".self_attn.v_proj.",
    r"\.attn\.out\.": ".self_attn.out_proj.",
    r"\.mlp_ln\.": ".final_layer_norm.",
    r"\.mlp\.0\.": ".fc1.",
    r"\.mlp\.2\.": ".fc2.",
}
"""Pieces of the package's names, and transformers' for them."""


class OpenAIWhisperConfig(WhisperConfig):
    """Whisper's config, read from the sizes that stand in a checkpoint of the package."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *_: Any, **__: Any) -> "OpenAIWhisperConfig":
        """The config of a name or a file; a revision means nothing here."""
        return config_of(read(str(pretrained_model_name_or_path))[0])


class OpenAIWhisperEncoder(WhisperAudioEncoder):
    """Whisper out of a checkpoint of OpenAI's `whisper` package, by name or as a .pt file."""

    config_class = OpenAIWhisperConfig

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> Any:
        """The encoder of a name or a file."""
        if revision is not None:
            raise ValueError(f"encoder.revision={revision} is for the hub; openai_whisper's {checkpoint} has none")
        sizes, weights = read(checkpoint)
        return around(cls, config_of(sizes), renamed(weights))


def read(checkpoint: str) -> tuple[Mapping[str, int], Mapping[str, Tensor]]:
    """Sizes and weights by the package's names; ValueError for what is neither a file nor a name that it knows."""
    if checkpoint.endswith(SUFFIX):
        return read_file(Path(checkpoint).expanduser())
    try:
        import whisper
    except ImportError as error:
        raise ValueError(
            f"encoder.checkpoint={checkpoint} is a model of the whisper package, which is not installed; "
            "pip install 'audiollm[openai-whisper]', or give a .pt file"
        ) from error
    if checkpoint not in whisper.available_models():
        known = ", ".join(whisper.available_models())
        raise ValueError(f"encoder.checkpoint={checkpoint} is not a model of the whisper package; known: {known}")
    model = whisper.load_model(checkpoint, device="cpu")
    return vars(model.dims), model.state_dict()


def read_file(path: Path) -> tuple[Mapping[str, int], Mapping[str, Tensor]]:
    """What a `.pt` file of the package holds; no pickle is run."""
    if not path.is_file():
        raise ValueError(f"encoder.checkpoint={path}: there is no such file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return found["dims"], found["model_state_dict"]
    except (UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"encoder.checkpoint={path} is not in the whisper package's format, `dims` and `model_state_dict` "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error


def config_of(sizes: Mapping[str, int]) -> OpenAIWhisperConfig:
    """The package's sizes in transformers' words."""
    return OpenAIWhisperConfig(
        num_mel_bins=sizes["n_mels"],
        max_source_positions=sizes["n_audio_ctx"],
        d_model=sizes["n_audio_state"],
        encoder_attention_heads=sizes["n_audio_head"],
        encoder_layers=sizes["n_audio_layer"],
        encoder_ffn_dim=4 * sizes["n_audio_state"],
        vocab_size=sizes["n_vocab"],
        max_target_positions=sizes["n_text_ctx"],
        decoder_attention_heads=sizes["n_text_head"],
        decoder_layers=sizes["n_text_layer"],
        decoder_ffn_dim=4 * sizes["n_text_state"],
    )


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights under transformers' names."""
    found = {}
    for name, weight in weights.items():
        if name.startswith("encoder."):
            name = name.removeprefix("encoder.")
            for theirs, ours in NAMES.items():
                name = re.sub(theirs, ours, name)
            found[name] = weight
    return found
