"""The table of audio encoders: one file and one line adds one.

An encoder is a `PreTrainedModel` that takes waveforms [N, L] at 16 kHz with a mask and gives frames [N, T, C] with a
mask. It owns its front end, and tells without weights how long its output is (base.py).
"""

from audiollm.models.encoders.clap import ClapTower
from audiollm.models.encoders.openai_whisper import OpenAIWhisperEncoder
from audiollm.models.encoders.parakeet import ParakeetAudioEncoder
from audiollm.models.encoders.pooled_whisper import AudioFlamingo3Tower, Qwen2AudioTower
from audiollm.models.encoders.registry import ENCODERS, audio_config_of, encoder_class, encoder_config, encoder_of
from audiollm.models.encoders.self_supervised import SELF_SUPERVISED
from audiollm.models.encoders.side_by_side import SideBySide, SideBySideConfig
from audiollm.models.encoders.spectrogram_transformer import ASTAudioEncoder
from audiollm.models.encoders.w2v_bert import W2vBertEncoder
from audiollm.models.encoders.whisper import WhisperAudioEncoder

ENCODERS.update(
    {
        SideBySideConfig.model_type: SideBySide,
        "whisper": WhisperAudioEncoder,
        "wav2vec2-bert": W2vBertEncoder,
        "parakeet_encoder": ParakeetAudioEncoder,
        **SELF_SUPERVISED,
        "openai_whisper": OpenAIWhisperEncoder,
        "qwen2_audio_encoder": Qwen2AudioTower,
        "audioflamingo3_encoder": AudioFlamingo3Tower,
        "audio-spectrogram-transformer": ASTAudioEncoder,
        "clap_audio_model": ClapTower,
    }
)

__all__ = [
    "ENCODERS", "SideBySide", "SideBySideConfig", "audio_config_of", "encoder_class", "encoder_config", "encoder_of",
]  # fmt: skip
