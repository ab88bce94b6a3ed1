"""Tiny models of transformers' own kinds, from their own configs, with their own processors over our tokenizer.

Windows hold one second where the model's processor lets them, so that what a window means is seen in short clips.
Some processors need packages that are not installed here (torchvision, torchaudio): there the same class is put
together without the part that needs them (`Bare`), and cannot be saved.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
import transformers
from tiny import RATE, tokenizer, unsettle
from tokenizers import AddedToken, Tokenizer
from transformers import AutoConfig, WhisperFeatureExtractor
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig
from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor
from transformers.models.gemma3n.processing_gemma3n import Gemma3nProcessor
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.models.granite_speech.feature_extraction_granite_speech import GraniteSpeechFeatureExtractor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor
from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor

from audiollm.models.native import loading
from audiollm.models.native.modeling import NativeConfig
from audiollm.models.native.processing import NativeProcessor
from audiollm.models.native.table import NATIVES
from audiollm.models.parts import Built, base_of

MELS = 16
CONTROL = {
    "audio_token": "<|sound|>", "audio_bos_token": "<|sound_bos|>", "audio_eos_token": "<|sound_eos|>",
    "boa_token": "<|boa|>", "eoa_token": "<|eoa|>", "image_token": "<|image|>", "video_token": "<|video|>",
    "boi_token": "<|boi|>", "eoi_token": "<|eoi|>", "vision_bos_token": "<|vb|>", "vision_eos_token": "<|ve|>",
}  # fmt: skip
CHATML = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.content is string -%}{{ m.content }}{%- else -%}"
    "{%- for part in m.content -%}{{ OPEN + '<|sound|>' + CLOSE if part.type == 'audio' else part.text }}{%- endfor -%}"
    "{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
PLAIN = CHATML.replace("OPEN + ", "").replace(" + CLOSE", "")
BRACKETED = CHATML.replace("OPEN", "'<|sound_bos|>'").replace("CLOSE", "'<|sound_eos|>'")
TEXT_ALONE = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor -%}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 2048, "initializer_range": 0.3, "head_dim": 16,
}  # fmt: skip
WHISPER = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": MELS,
    "max_source_positions": 50, "initializer_range": 0.2,
}  # fmt: skip
VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
CONV2D = {
    **WHISPER, "n_window": 50, "n_window_infer": 100, "downsample_hidden_size": 4, "output_dim": 32,
}  # fmt: skip
CONFORMER = {
    "input_dim": MELS, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "output_dim": 6, "context_size": 20,
    "max_pos_emb": 20, "conv_kernel_size": 3,
}  # fmt: skip
QFORMER = {
    "model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "encoder_hidden_size": 16,
}  # fmt: skip
GEMMA_PLACES = 188  # of a clip, which is what thirty seconds take
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


class Bare:
    """A processor without what reads images; it is never on disk."""

    def save_pretrained(self, folder):
        """Nothing."""


class Omni2(Bare, Qwen2_5OmniProcessor):
    """Qwen2.5-Omni's."""


class Omni3(Bare, Qwen3OmniMoeProcessor):
    """Qwen3-Omni's."""


class Gemma(Bare, Gemma4Processor):
    """Gemma 4's."""


class Gemma3n(Bare, Gemma3nProcessor):
    """Gemma 3n's."""


class Picture(transformers.PreTrainedModel):
    """What stands for Gemma 3n's vision tower, which needs timm: it has one weight, and sees nothing."""

    config_class = Gemma3nVisionConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.post_init()


transformers.AutoModel.register(Gemma3nVisionConfig, Picture, exist_ok=True)


class Granite(Bare, transformers.GraniteSpeechProcessor):
    """Granite Speech's."""


class GraniteMel(GraniteSpeechFeatureExtractor):
    """Granite's feature extractor with torch's own spectrogram in place of torchaudio's."""

    def __init__(self, n_mels=MELS // 2):
        transformers.SequenceFeatureExtractor.__init__(self, n_mels, RATE, 0.0)
        self.melspec_kwargs = {"hop_length": 160}
        self.projector_window_size, self.projector_downsample_rate = 15, 5
        self.bank = torch.rand(n_mels, 257, generator=torch.Generator().manual_seed(0))
        self.mel_filters = self

    def to(self, device):
        """What torchaudio's module is asked for."""
        return lambda audio: (
            self.bank @ torch.stft(audio, 512, 160, 400, torch.hann_window(400), return_complex=True).abs().square()
        )

    def __call__(self, audios, device="cpu"):
        """As the original does, which first looks for torchaudio."""
        waves, lengths = self._get_audios_and_audio_lengths(audios)
        mel = self.to(device)(waves).transpose(-1, -2).clip(min=1e-10).log10()
        mel = mel[:, : mel.shape[1] // 2 * 2].reshape(len(waves), -1, 2 * mel.shape[-1])
        sizes = self._get_num_audio_features(lengths)
        mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        return {"input_features": mel, "audio_embed_sizes": sizes, "input_features_mask": mask}


class Fun(Bare, transformers.FunAsrNanoProcessor):
    """Fun-ASR-Nano's."""


class FunFrames(transformers.SequenceFeatureExtractor):
    """Stacked frames of 60 ms as Fun-ASR-Nano takes them, without the filter banks of torchaudio."""

    def __init__(self):
        super().__init__(MELS, RATE, 0.0)

    def __call__(self, audio, **settings):
        """Samples in place of filter banks, a row each 960 samples."""
        [wave] = audio
        rows = torch.nn.functional.pad(torch.as_tensor(wave), (0, -len(wave) % 960)).reshape(1, -1, 960)
        frames = rows[..., : 7 * MELS]
        return {"input_features": frames, "input_features_mask": torch.ones(frames.shape[:2], dtype=torch.long)}


def words(kind):
    """A tokenizer with every control token that some model asks for."""
    named, special = dict(CONTROL), ["<|im_start|>", "<|im_end|>"]
    if kind == "qwen2_audio":
        named |= {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
    if kind == "voxtral":  # which knows its audio token by this id
        special = ["[BEGIN_AUDIO]", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<s>", "</s>"]
    state = json.loads(tokenizer().backend_tokenizer.to_str())
    if kind == "voxtral":
        vocabulary = state["model"]["vocab"]
        piece = next(piece for piece, number in vocabulary.items() if number == 24)
        vocabulary["[AUDIO]"] = vocabulary.pop(piece)
        state["added_tokens"].append({**state["added_tokens"][0], "id": 24, "content": "[AUDIO]"})
        state["added_tokens"].sort(key=lambda token: token["id"])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|end|>", pad_token="<|pad|>",
        extra_special_tokens=named,
    )  # fmt: skip
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    return made


def extractor(**settings):
    """Whisper's, with one second in a window."""
    return WhisperFeatureExtractor(**{"feature_size": MELS, "chunk_length": 1, **settings})


def bare(cls, **parts):
    """A processor of this class with these parts alone, and the tokens that its constructor notes."""
    made = object.__new__(cls)
    for name, part in parts.items():
        setattr(made, name, part)
    for token in CONTROL:
        for name in (token, f"{token}_id"):
            setattr(made, name, getattr(made.tokenizer, name))
    return made


def gemma3n(tokens):
    """The processor of Gemma 3n, which gives every clip the same number of places."""
    made = bare(Gemma3n, feature_extractor=Gemma3nAudioFeatureExtractor(feature_size=MELS), tokenizer=tokens)
    made.chat_template, made.audio_seq_length = PLAIN, GEMMA_PLACES
    made.full_audio_sequence = f"\n\n{made.boa_token}{made.audio_token * made.audio_seq_length}{made.eoa_token}\n\n"
    return made


def processor_of(kind, tokens):
    """The model's own processor, with a chat template of the form that it takes."""
    flamingo = {"chat_template": PLAIN, "audio_token": "<|sound|>", "max_audio_len": 4}
    made: dict[str, Callable[[], Any]] = {
        "qwen2_audio": lambda: transformers.Qwen2AudioProcessor(extractor(), tokens),
        "voxtral": lambda: transformers.VoxtralProcessor(extractor(chunk_length=2), tokens),
        "audioflamingo3": lambda: transformers.AudioFlamingo3Processor(extractor(), tokens, **flamingo),
        "musicflamingo": lambda: transformers.MusicFlamingoProcessor(
            extractor(), tokens, **flamingo, audio_bos_token="<|sound_bos|>", audio_eos_token="<|sound_eos|>"
        ),
        "glmasr": lambda: transformers.GlmAsrProcessor(extractor(chunk_length=2), tokens, **flamingo),
        "qwen3_asr": lambda: transformers.Qwen3ASRProcessor(
            Qwen3ASRFeatureExtractor(feature_size=MELS, min_length=1600), tokens, chat_template=BRACKETED
        ),
        "granite_speech": lambda: bare(
            Granite, audio_processor=GraniteMel(), tokenizer=tokens, chat_template=TEXT_ALONE
        ),
        "fun_asr_nano": lambda: Fun(FunFrames(), tokens, chat_template=PLAIN, audio_token="<|sound|>"),
        "qwen2_5_omni_thinker": lambda: bare(
            Omni2, feature_extractor=extractor(), tokenizer=tokens, chat_template=BRACKETED
        ),
        "qwen3_omni_moe_thinker": lambda: bare(
            Omni3, feature_extractor=extractor(), tokenizer=tokens, chat_template=BRACKETED
        ),
        "gemma3n": lambda: gemma3n(tokens),
        "gemma4": lambda: bare(
            Gemma,
            feature_extractor=Gemma4AudioFeatureExtractor(feature_size=MELS),
            tokenizer=tokens,
            chat_template=PLAIN,
        ),
    }
    return made[kind.removesuffix("_plus")]()


def sizes_of(kind):
    """The parts of a tiny configuration."""
    afencoder = {"model_type": "audioflamingo3_encoder", **WHISPER}
    multimodal = {**TEXT, "rope_parameters": ROTARY}
    found: dict[str, dict[str, Any]] = {
        "qwen2_audio": {"audio_config": {"model_type": "qwen2_audio_encoder", **WHISPER}, "text": "qwen2"},
        "voxtral": {
            "audio_config": {
                "model_type": "voxtral_encoder", "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_mel_bins": MELS, "initializer_range": 0.2, "max_source_positions": 100,
            },
            "text": "llama",
        },
        "audioflamingo3": {"audio_config": afencoder, "text": "qwen2"},
        "musicflamingo": {"audio_config": afencoder, "text": "qwen2"},
        "glmasr": {
            "audio_config": {
                "model_type": "glmasr_encoder", "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_mel_bins": MELS, "max_position_embeddings": 100,
                "initializer_range": 0.2,
            },
            "text": "llama",
        },
        "qwen3_asr": {"audio_config": {"model_type": "qwen3_asr_encoder", **CONV2D}, "text": "qwen3"},
        "fun_asr_nano": {
            "audio_config": {
                "num_mel_bins": MELS, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
                "num_hidden_layers": 2, "num_timestamp_prediction_layers": 1, "hidden_dropout": 0.0,
                "attention_dropout": 0.0, "model_type": "fun_asr_nano_encoder",
            },
            "adaptor_config": {
                "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1,
                "projector_hidden_size": 16,
            },
            "text": "qwen3",
        },
        "granite_speech": {"encoder_config": CONFORMER, "projector_config": QFORMER, "text": "granite"},
        "granite_speech_plus": {
            "encoder_config": {**CONFORMER, "cat_hidden_layers": [0]},
            "projector_config": {**QFORMER, "encoder_hidden_size": 32}, "text": "granite",
        },
        "qwen2_5_omni_thinker": {
            "audio_config": {"model_type": "qwen2_5_omni_audio_encoder", **WHISPER, "n_window": 10, "output_dim": 32},
            "vision_config": {"model_type": "qwen2_5_omni_vision_encoder", **VISION},
            "text_config": {"model_type": "qwen2_5_omni_text", **multimodal},
        },
        "qwen3_omni_moe_thinker": {
            "audio_config": {"model_type": "qwen3_omni_moe_audio_encoder", **CONV2D},
            "vision_config": {"model_type": "qwen3_omni_moe_vision_encoder", **VISION, "deepstack_visual_indexes": [0]},
            "text_config": {
                "model_type": "qwen3_omni_moe_text", **multimodal, "num_experts": 2, "num_experts_per_tok": 1,
                "moe_intermediate_size": 16,
            },
        },
        "gemma3n": {
            "audio_soft_tokens_per_image": GEMMA_PLACES,
            "audio_config": {
                "vocab_size": 8, "input_feat_size": MELS, "hidden_size": 16,
                "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1, "sscp_conv_channel_size": [4, 4],
            },
            "vision_config": {"vocab_size": 8, "hidden_size": 16},
            "text_config": {
                "model_type": "gemma3n_text", **TEXT, "intermediate_size": [48, 48], "vocab_size_per_layer_input": 400,
                "hidden_size_per_layer_input": 8, "sliding_window": 9, "final_logit_softcapping": 5.0,
                "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "laurel_rank": 4,
                "activation_sparsity_pattern": [0.0, 0.0],
            },
        },
        "gemma4": {
            "audio_config": {
                "model_type": "gemma4_audio", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "subsampling_conv_channels": [MELS, 4], "output_proj_dims": 16, "initializer_range": 0.2,
            },
            "text_config": {
                "model_type": "gemma4_text", **TEXT, "vocab_size_per_layer_input": 400,
                "hidden_size_per_layer_input": 8, "sliding_window": 9, "final_logit_softcapping": 5.0,
                "layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 16,
            },
        },
    }  # fmt: skip
    return found[kind]


VOXTRAL = transformers.VoxtralProcessor.audio_kwargs | {"pad_to_multiple_of": 2 * RATE, "max_source_positions": 200}
"""Settings of Voxtral's processor, which has them in its class, for windows of two seconds."""
KINDS = [
    "qwen2_audio", "voxtral", "audioflamingo3", "musicflamingo", "glmasr", "qwen3_asr", "granite_speech",
    "granite_speech_plus", "fun_asr_nano", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "gemma3n", "gemma4",
]  # fmt: skip
ON_DISK = KINDS[:6]
"""Those whose processor can be saved here."""


def whole(kind, seed=0, **changes):
    """A model of transformers with random weights, and its own processor; `changes` are of its language model."""
    torch.manual_seed(seed)
    tokens = words(kind)
    processor = processor_of(kind, tokens)
    parts = sizes_of(kind)
    text = {"pad_token_id": 0, "eos_token_id": tokens.eos_token_id, "bos_token_id": None, "vocab_size": len(tokens)}
    model_type = parts.pop("text", None)
    if model_type:
        parts["text_config"] = {"model_type": model_type, **TEXT}
    parts["text_config"] |= text | changes
    if kind == "gemma3n":  # the ends of whose vocabulary belong to what sees and hears
        parts["vision_config"]["vocab_offset"], parts["audio_config"]["vocab_offset"] = (
            len(tokens) - 16,
            len(tokens) - 8,
        )
    audio = tokens.convert_tokens_to_ids(processor.audio_token)
    if "omni" in kind:
        parts["vision_start_token_id"] = tokens.convert_tokens_to_ids("<|vb|>")
    config = AutoConfig.for_model(kind, **parts, tie_word_embeddings=False, audio_token_id=audio)
    model = getattr(transformers, NATIVES[kind].model_class)(config).eval()
    unsettle(model)
    model.generation_config = transformers.GenerationConfig(eos_token_id=tokens.eos_token_id, pad_token_id=0)
    return model, processor


def native(kind, seed=0) -> Built:
    """The same as this package holds it, of no folder."""
    model, processor = whole(kind, seed)
    found = base_of({"checkpoint": f"somewhere/{kind}"}, model)
    config = NativeConfig(native_config=model.config, bases=dict.fromkeys(("encoder", "connector", "llm"), found))
    own = NativeProcessor(processor, NATIVES[kind])
    return Built(loading.wrapped(config, model, own), own)


def save(kind, folder, seed=0, **changes):
    """The same as it comes from a hub."""
    model, processor = whole(kind, seed, **changes)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
