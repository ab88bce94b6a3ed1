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
    "conformer-relative": ("wav2vec2-conformer", CONFORMER | {"position_embeddings_type": "relative"}),
    "conformer-rotary": ("wav2vec2-conformer", CONFORMER | {"position_embeddings_type": "rotary"}),
    "w2v-bert": ("wav2vec2-bert", BERT),
    "parakeet": ("parakeet_encoder", SIZES | {"subsampling_conv_channels": 4, "num_mel_bins": 80}),
}
"""Name of the variant -> `model_type` and config."""
