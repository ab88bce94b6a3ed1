"""The audio language model: embed the text, encode the audio, connect, splice, decode.

Not here: building from parts (parts.py), what trains (freezing.py), what is on disk (checkpoint.py).
Shapes: B rows, S tokens, D width, V vocabulary, N clips, L samples, M audio vectors, K supervised tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast

from audiollm.models.attention import Layout, layout_of, packed
from audiollm.models.chunked_loss import IGNORE_INDEX, NextTokenLoss
from audiollm.models.configuration import AudioLLMConfig
from audiollm.models.connectors import build_connector
from audiollm.models.encoders import encoder_of
from audiollm.models.sharded import is_sharded
from audiollm.models.splice import Kept, merge_frames, repeat_by_row, splice


class AudioLLMPreTrainedModel(PreTrainedModel):
    """What the two classes below share."""

    config: AudioLLMConfig
    config_class = AudioLLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["audio", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class AudioLLMModel(AudioLLMPreTrainedModel):
    """Encoder, connector and language model, without the vocabulary projection."""

    def __init__(self, config: AudioLLMConfig) -> None:
        super().__init__(config)
        self.audio_tower: Any = encoder_of(config.audio_config.to_dict())(config.audio_config)
        self.connector: Any = connector_between(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The text embeddings of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the text embeddings."""
        self.language_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "AudioLLMModel":
        """Training mode for the parts that train; a frozen part stays in evaluation mode."""
        super().train(mode)
        for part in (self.audio_tower, self.connector, self.language_model):
            if mode and not is_trainable(part):
                rest(part)
        return self

    def get_audio_frames(
        self, input_values: Any, input_values_mask: Any, kept: Kept | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encoder output [N, T, C] and its mask, kept ones among them; no graph is kept for a frozen encoder."""
        if input_values is None and kept is not None:
            if self.all_ranks_must_run(self.audio_tower):  # another rank may hear a clip that is not kept
                self.audio_tower(*self.silent_clip())
            return kept.frames_KTC.to(self.audio_tower.dtype), kept.mask_KT
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trainable(self.audio_tower)):
            frames_NTC, mask_NT = self.audio_tower(input_values, input_values_mask)
        return (frames_NTC, mask_NT) if kept is None else merge_frames(frames_NTC, mask_NT, kept)

    def connect(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Each clip's vectors for the language model [N, K, D] and their mask, from its frames."""
        return self.connector(frames_NTC.to(self.connector.output.weight.dtype), mask_NT)

    def get_audio_features(
        self, input_values: Any, input_values_mask: Any, kept: Kept | None = None, **_: Any
    ) -> BaseModelOutputWithPooling:
        """All clips' vectors for the language model, one after another: `pooler_output` [M, D]."""
        frames_NTC, mask_NT = self.get_audio_frames(input_values, input_values_mask, kept)
        vectors_NKD, mask_NK = self.connect(frames_NTC, mask_NT)
        return BaseModelOutputWithPooling(last_hidden_state=frames_NTC, pooler_output=vectors_NKD[mask_NK])

    def forward(
        self,
        input_ids: Tensor | None = None,
        input_values: Tensor | None = None,
        input_values_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Any = None,
        branch_ids: Any = None,
        clip_ids: Any = None,
        audio_frames: Tensor | None = None,
        audio_frames_mask: Any = None,
        audio_is_cached: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, S, D]; with `branch_ids` the sequences are packed trunks and branches.

        `audio_frames` [K, T, C] are what a frozen encoder made of the clips that `audio_is_cached` [N] names.
        """
        if inputs_embeds is None:
            kept = None if audio_frames is None else Kept(audio_frames, audio_frames_mask, audio_is_cached)
            inputs_embeds = self.embed(input_ids, input_values, input_values_mask, kept)
        mask: Any = attention_mask
        if branch_ids is not None:
            ids, dtype = (clip_ids, branch_ids, position_ids), inputs_embeds.dtype
            mask, clips = packed(self.language_model.config, *ids, dtype, training=self.training)
            kwargs |= {**clips, "use_cache": False}
        if position_ids is not None:  # a recurrent language model knows none
            kwargs["position_ids"] = position_ids
        return self.language_model(inputs_embeds=inputs_embeds, attention_mask=mask, **kwargs)

    def embed(
        self, input_ids_BS: Any, input_values: Tensor | None, input_values_mask: Any, kept: Kept | None = None
    ) -> Tensor:
        """Text embeddings [B, S, D] with the audio vectors in the places of the placeholders."""
        is_audio_BS = input_ids_BS.eq(self.config.placeholder_id)
        text_BSD = self.get_input_embeddings()(input_ids_BS.masked_fill(is_audio_BS, 0))
        if input_values is None and kept is None:
            if is_audio_BS.any():
                raise ValueError("prompt has audio placeholders but no input_values; pass what the processor returned")
            silent = self.all_ranks_must_run(self.audio_tower, self.connector)
            return text_BSD + self.silence() if silent else text_BSD
        audio_MD: Any = self.get_audio_features(input_values, input_values_mask, kept).pooler_output
        return splice(text_BSD, is_audio_BS, audio_MD)

    @property
    def trains_on_ranks(self) -> bool:
        """Whether other processes train with this one: all of them run the same modules, or their collectives hang."""
        return self.training and torch.distributed.is_available() and torch.distributed.is_initialized()

    def all_ranks_must_run(self, *parts: nn.Module) -> bool:
        """Whether a batch without audio must run one of these parts all the same, since it trains or is sharded."""
        return self.trains_on_ranks and any(is_trainable(part) or is_sharded(part) for part in parts)

    def silence(self) -> Tensor:
        """Encoder and connector once on 0.1 s of silence, with weight zero."""
        vectors: Any = self.get_audio_features(*self.silent_clip()).pooler_output
        return vectors.sum() * 0.0

    def silent_clip(self) -> tuple[Tensor, Tensor]:
        """0.1 s of silence [1, L], and its mask."""
        waves = torch.zeros(1, self.config.sampling_rate // 10, device=self.device)
        return waves, waves == 0


class AudioLLMForConditionalGeneration(NextTokenLoss, AudioLLMPreTrainedModel, GenerationMixin):
    """An audio language model that answers: `generate` works as for any model of the library."""

    _tied_weights_keys: dict[str, str] = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    llm_prefix = "model.language_model."  # of the language model's parameters
    peft_prefix = "base_model.model.model."  # of the same on the language model alone, for plain PEFT
    shares_audio = True  # between the questions of a clip, as far as the language model's attention lets them
    lora_config: Any = None  # of the LoRA that is attached to the language model
    encoder_lora_config: Any = None  # and to the encoder
    lora_scale: float = 1.0  # by which it is multiplied, beside alpha / r
    trained_parts: frozenset[str] | set[str] = frozenset()  # by any stage so far

    def __init__(self, config: AudioLLMConfig) -> None:
        super().__init__(config)
        self.model = AudioLLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_parts(cls, **parts: Any) -> "AudioLLMForConditionalGeneration":
        """A model from an encoder, a connector and a language model by name; see `parts.build`."""
        from audiollm.models.parts import build  # parts builds this class

        return build(**parts).model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, quantize: str | None = None, **kwargs: Any
    ) -> Any:
        """Load a complete folder as the library does, or a small checkpoint on top of its named bases.

        `quantize`: how the language model is held, "nf4", "int8" or "none"; None takes what it was trained with.
        """
        from audiollm.models.checkpoint import is_small_checkpoint, load_small_checkpoint
        from audiollm.models.quantize import check_scheme, quantize_linears

        if is_small_checkpoint(pretrained_model_name_or_path):
            return load_small_checkpoint(pretrained_model_name_or_path, quantize=quantize, **kwargs)
        model = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if (scheme := check_scheme(quantize)) is not None:
            quantize_linears(model.model.language_model, scheme)
            model.config.quantize = scheme
        return model

    def get_audio_features(
        self, input_values: Tensor, input_values_mask: Tensor, **_: Any
    ) -> BaseModelOutputWithPooling:
        """All clips' vectors for the language model: `pooler_output` [M, D]."""
        return self.model.get_audio_features(input_values, input_values_mask)

    def forward(
        self,
        input_ids: Tensor | None = None,
        input_values: Tensor | None = None,
        input_values_mask: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, S, V] without labels; with labels the loss alone, projected at supervised positions only.

        `shift_labels` [B, S] holds the token that each position predicts; `labels` [B, S] is the library's usual form.
        The loss is the sum over supervised tokens divided by `num_items_in_batch` (default: the batch's own number).
        """
        if labels is not None and shift_labels is None:
            shift_labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        if shift_labels is not None:
            kwargs["use_cache"] = False
        outputs = self.model(input_ids, input_values, input_values_mask, **kwargs)
        hidden_BSD = outputs.last_hidden_state
        if shift_labels is not None:
            loss = self.loss(hidden_BSD, shift_labels, num_items_in_batch)
            return CausalLMOutputWithPast(loss=loss)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.project(hidden_BSD[:, keep])
        return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.get("past_key_values"))

    @property
    def encoder(self) -> nn.Module:
        """What listens."""
        return self.model.audio_tower

    @property
    def trained_dtype(self) -> torch.dtype:
        """The type of what is added to train."""
        return self.model.connector.output.weight.dtype

    @property
    def layout(self) -> Layout:
        """How the questions of a stage must lie."""
        return layout_of(self.model.language_model)

    def lora_targets(self) -> Any:
        """The layers that have LoRA, as the adapter's file names them."""
        return self.lora_config.target_modules

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **kwargs: Any
    ) -> Any:
        """Each beam hears all clips of its row: the library repeats clip by clip, which fits one clip a row alone."""
        values, mask = kwargs.pop("input_values", None), kwargs.pop("input_values_mask", None)
        heard: dict[str, Any] = {}
        if values is not None:
            tokens = [self.config.num_audio_tokens(int(samples)) for samples in mask.sum(-1)]
            slots = input_ids.eq(self.config.placeholder_id).sum(-1).tolist()
            order = torch.tensor(repeat_by_row(slots, tokens, expand_size), device=values.device)
            heard = {"input_values": values[order], "input_values_mask": mask[order]}
        library: Any = super()
        input_ids, kwargs = library._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, kwargs | heard


def connector_between(config: AudioLLMConfig) -> nn.Module:
    """A new connector that fits the encoder and the language model of a config."""
    audio_config = config.audio_config.to_dict()
    encoder = encoder_of(audio_config)
    return build_connector(
        config.connector_config,
        dim_in=encoder.width(audio_config),
        dim_out=config.text_config.hidden_size,
        frame_rate_hz=encoder.frame_rate_hz(audio_config),
        sections=encoder.sections(audio_config),
    )


def is_trainable(module: nn.Module) -> bool:
    """Whether any parameter of the module takes a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def rest(part: nn.Module) -> None:
    """Evaluation mode for a frozen part, through which gradients may pass.

    Layers that compute their activations again do so in training mode alone, which is theirs then, and not that of what
    they are made of; those that drop something themselves stay at rest.
    """
    part.eval()
    for layer in part.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            layer.training = not any("dropout" in name and value for name, value in vars(layer).items())


AutoConfig.register(AudioLLMConfig.model_type, AudioLLMConfig)
AutoModel.register(AudioLLMConfig, AudioLLMModel)
AutoModelForMultimodalLM.register(AudioLLMConfig, AudioLLMForConditionalGeneration)
