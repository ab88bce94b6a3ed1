"""Two-layer models with random weights in the place of public checkpoints of the same architecture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import chat_templates
import torch
import transformers
from tiny import ENCODER, LLM, LLMS, WIDE

SPEECH = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "conv_dim": (8,) * 7,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True,
}  # fmt: skip
AST = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_length": 128}
W2V_BERT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "add_adapter": False,
    "conv_depthwise_kernel_size": 3,
}  # fmt: skip
CLAP_AUDIO = {
    "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "hidden_size": 16,
    "projection_dim": 8, "num_hidden_layers": 2,
}  # fmt: skip
FLAMINGO_AUDIO = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_mel_bins": 128,
    "max_source_positions": 50,
}  # fmt: skip


def folder_for(checkpoint: str, hub: Path) -> Path:
    """The folder of the stand-in for a public checkpoint; ours are left as they are."""
    for beginning, make in STAND_INS.items():
        if checkpoint.startswith(beginning):
            folder = hub / beginning.replace("/", "_")
            if not folder.is_dir():
                torch.manual_seed(0)
                make(folder)
            return folder
    raise AssertionError(f"no stand-in for {checkpoint}: give it one in STAND_INS")


def language_model(name: str) -> Callable[[Path], None]:
    """Makes a causal language model of one of tiny.LLMS, with a chat template."""

    def make(folder: Path) -> None:
        tokenizer = chat_templates.qwen()
        tokenizer.chat_template = chat_templates.QWEN3
        padded = len(tokenizer) + 20  # as the public ones, whose embedding has more rows than the tokenizer has tokens
        sizes = LLM | WIDE | LLMS[name] | {"vocab_size": padded, "eos_token_id": tokenizer.eos_token_id}
        config = transformers.AutoConfig.for_model(**sizes)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return make


def encoder(model: str, config: str, sizes: dict[str, Any], extractor: str | None = None) -> Callable[[Path], None]:
    """Makes an encoder by the names of its classes."""

    def make(folder: Path) -> None:
        made = getattr(transformers, model)(getattr(transformers, config)(**sizes))
        made.save_pretrained(folder)
        if extractor is not None:
            getattr(transformers, extractor)().save_pretrained(folder)

    return make


def clap(folder: Path) -> None:
    """A CLAP of both towers."""
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 64,
    }
    config = transformers.ClapConfig(
        audio_config=CLAP_AUDIO, text_config=text | {"projection_dim": 8}, projection_dim=8
    )
    transformers.ClapModel(config).save_pretrained(folder)


def flamingo(folder: Path) -> None:
    """An Audio Flamingo 3."""
    config = transformers.AudioFlamingo3Config(
        audio_config=FLAMINGO_AUDIO, text_config=LLM | LLMS["qwen2"] | {"vocab_size": 300}, audio_token_id=299
    )
    transformers.AudioFlamingo3ForConditionalGeneration(config).save_pretrained(folder)


STAND_INS: dict[str, Callable[[Path], None]] = {
    "openai/whisper": encoder("WhisperModel", "WhisperConfig", ENCODER),
    "microsoft/wavlm": encoder("WavLMModel", "WavLMConfig", SPEECH, "Wav2Vec2FeatureExtractor"),
    "facebook/hubert": encoder("HubertModel", "HubertConfig", SPEECH, "Wav2Vec2FeatureExtractor"),
    "facebook/w2v-bert": encoder("Wav2Vec2BertModel", "Wav2Vec2BertConfig", W2V_BERT, "SeamlessM4TFeatureExtractor"),
    "MIT/ast": encoder("ASTModel", "ASTConfig", AST, "ASTFeatureExtractor"),
    "laion/": clap,
    "nvidia/audio-flamingo-3": flamingo,
    "Qwen/Qwen3": language_model("qwen3"),
    "Qwen/Qwen2.5": language_model("qwen2"),
    "meta-llama/": language_model("llama"),
    "ibm-granite/granite-3": language_model("granite"),
}
