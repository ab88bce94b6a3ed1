"""Tiny configs of every family of encoders: two layers, weights drawn wide, each variant that a mask could miss."""

from tiny import ENCODER

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "initializer_range": 0.2,
}  # fmt: skip
WAVES = {**SIZES, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CONFORMER = {**WAVES, "conv_depthwise_kernel_size": 5, "max_source_positions": 8}
BERT = {
    **SIZES, "feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 5,
    "left_max_position_embeddings": 8, "right_max_position_embeddings": 4,
}  # fmt: skip
CONFIGS = {
    "whisper": ("whisper", ENCODER),
    "wav2vec2": ("wav2vec2", WAVES),
    "wav2vec2-large": ("wav2vec2", WAVES | LAYER_NORM),
    "hubert": ("hubert", WAVES),
    "hubert-large": ("hubert", WAVES | LAYER_NORM),
    "hubert-norm": ("hubert", WAVES | {"conv_pos_batch_norm": True}),
    "wavlm": ("wavlm", WAVES | {"num_buckets": 16, "max_bucket_distance": 20}),
    "wavlm-large": ("wavlm", WAVES | LAYER_NORM | {"num_buckets": 16, "max_bucket_distance": 20}),
    "unispeech": ("unispeech", WAVES),
    "unispeech-sat": ("unispeech-sat", WAVES),
    "data2vec-audio": ("data2vec-audio", WAVES | {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}),
    "sew": ("sew", WAVES | {"conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}),
    "conformer-relative": ("wav2vec2-conformer", CONFORMER | {"position_embeddings_type": "relative"}),
    "conformer-rotary": ("wav2vec2-conformer", CONFORMER | {"position_embeddings_type": "rotary"}),
    "w2v-bert": ("wav2vec2-bert", BERT),
    "parakeet": ("parakeet_encoder", SIZES | {"subsampling_conv_channels": 4, "num_mel_bins": 80}),
}
"""Name of the variant -> `model_type` and config."""

IMAGES = {
    "qwen2_audio_encoder": {
        "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "max_source_positions": 50, "initializer_range": 0.2,
    },
    "audioflamingo3_encoder": {**SIZES, "max_source_positions": 50},
    "audio-spectrogram-transformer": {**SIZES, "num_mel_bins": 36, "max_length": 104},
    "clap_audio_model": {
        "spec_size": 64, "num_mel_bins": 16, "window_size": 4, "depths": [2, 2], "num_attention_heads": [1, 2],
        "patch_embeds_hidden_size": 8, "hidden_size": 16, "hidden_dropout_prob": 0.0, "front_end": {"max_length_s": 1},
    },
}  # fmt: skip
"""`model_type` -> config, of those that hear a spectrogram in windows of a second."""
