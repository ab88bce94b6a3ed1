"""A thin module around a model of transformers: one loss and one way to batch, and its parts by the names used here.

The model's own forward does the work, on its own features and positions. Its loss is not used: some divide by what a
micro-batch holds, and come out too large by accumulation times ranks.
Not here: where its parts are (table.py), features and placeholders (processing.py), weights (loading.py).
Shapes: B rows, S tokens, D width, N clips, W windows of a clip, V vocabulary.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from audiollm.models.attention import PADDING, Layout, layout_of, packed
from audiollm.models.chunked_loss import IGNORE_INDEX, NextTokenLoss
from audiollm.models.modeling import is_trainable, rest
from audiollm.models.native.processing import TOKENS
from audiollm.models.native.table import HOME, LANGUAGE_MODEL, NATIVE, NATIVES, Features, Native
from audiollm.models.sharded import is_sharded
from audiollm.models.splice import splice


class NativeConfig(PreTrainedConfig):
    """The model's own configuration, where its weights come from, and how its language model is held.

    `bases` maps "encoder", "connector" and "llm" to the one checkpoint that all of them are from.
    """

    model_type = NATIVE
    sub_configs: ClassVar[dict[str, Any]] = {"native_config": AutoConfig}

    native_config: Any = None
    bases: dict | None = None
    quantize: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.native_config, dict):
            self.native_config = AutoConfig.for_model(**self.native_config)
        self.native_config = copy.deepcopy(self.native_config)  # a config writes its own attention into those in it
        if self.native_config is not None:
            kwargs["tie_word_embeddings"] = bool(getattr(self.native_config, "tie_word_embeddings", False))
        super().__post_init__(**kwargs)

    @property
    def text_config(self) -> Any:
        """The language model's."""
        return self.native_config.get_text_config()

    def get_text_config(self, decoder: Any = None, encoder: Any = None) -> Any:
        """The language model's."""
        return self.text_config

    @property
    def kind(self) -> Native:
        """What the table says of it."""
        return NATIVES[self.native_config.model_type]


class NativeAudioLLM(NextTokenLoss, nn.Module):
    """A model of transformers (`native`) that trains and answers as ours do."""

    llm_prefix = LANGUAGE_MODEL
    peft_prefix = f"base_model.model.{LANGUAGE_MODEL.removeprefix(HOME)}"
    lora_config: Any = None
    encoder_lora_config: Any = None
    lora_scale: float = 1.0
    trained_parts: frozenset[str] | set[str] = frozenset()

    def __init__(self, config: NativeConfig, native: Any, silence: Features, silent_ids: Sequence[int]) -> None:
        super().__init__()
        self.config: Any = config
        self.native = native
        self.kind = config.kind
        self.silence = silence  # a short clip, and the row that hears it
        self.silent_ids = torch.tensor(silent_ids)
        self.train(False)

    # parts, and what a trainer asks of a model

    @property
    def model(self) -> Any:
        """Encoder, connector and language model."""
        return self.native.model

    @property
    def lm_head(self) -> Any:
        """The vocabulary projection."""
        return self.native.lm_head

    @property
    def encoder(self) -> nn.Module:
        """What listens."""
        return self.model.get_submodule(self.kind.encoder)

    @property
    def connectors(self) -> list[nn.Module]:
        """What carries its frames to the language model."""
        return [self.model.get_submodule(name) for name in self.kind.connector]

    @property
    def trained_dtype(self) -> torch.dtype:
        """The type of what is added to train."""
        return next(self.connectors[0].parameters()).dtype

    def lora_targets(self) -> list[str]:
        """The layers that have LoRA, by the names that they have in the model of transformers."""
        home = self.llm_prefix.removeprefix(HOME)
        layers = self.model.language_model.named_modules()
        return sorted(home + name for name, layer in layers if isinstance(layer, LoraLayer))

    @property
    def shares_audio(self) -> bool:
        """Whether questions may share their clip, as far as the language model's attention lets them."""
        return self.kind.shares_audio

    @property
    def layout(self) -> Layout:
        """How the questions of a stage must lie."""
        return "branches" if self.shares_audio and layout_of(self.model.language_model) == "branches" else "rows"

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.native.device

    @property
    def generation_config(self) -> GenerationConfig:
        """The model's own."""
        return self.native.generation_config

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Weights that are another one's, by their names here."""
        return {f"native.{name}": f"native.{of}" for name, of in self.native.all_tied_weights_keys.items()}

    def tie_weights(self) -> None:
        """The library's."""
        self.native.tie_weights()

    def set_attn_implementation(self, attention: str) -> None:
        """Of the language model."""
        self.model.language_model.set_attn_implementation(attention)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.native.activation_checkpointing_enable(**kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The text embeddings of the language model."""
        return self.native.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The vocabulary projection."""
        return self.native.get_output_embeddings()

    def train(self, mode: bool = True) -> "NativeAudioLLM":
        """Training mode for the parts that train; a frozen part stays in evaluation mode."""
        super().train(mode)
        for part in self.children_of_base():
            if mode and not is_trainable(part):
                rest(part)
        return self

    def children_of_base(self) -> Iterator[nn.Module]:
        """The modules that the base model is made of; a connector inside an encoder after it."""
        yield from self.model.children()
        yield from self.connectors

    # what it does

    def forward(
        self,
        input_ids: Tensor,
        features: Sequence[Features] = (),
        attention_mask: Tensor | None = None,
        position_ids: Any = None,
        branch_ids: Any = None,
        clip_ids: Any = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits [B, S, V] without labels, with labels the loss alone: nats over `num_items_in_batch`.

        Rows padded on the right with their `attention_mask`, or packed trunks and branches.
        """
        rows = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        rows |= {"branch_ids": branch_ids, "clip_ids": clip_ids, "shift_labels": shift_labels}
        if not features and self.all_ranks_must_run():
            rows, features = self.with_silence(rows), [self.silence]
        hidden_BSD = self.hidden(rows, features)
        if rows["shift_labels"] is not None:
            return CausalLMOutputWithPast(loss=self.loss(hidden_BSD, rows["shift_labels"], num_items_in_batch))
        return CausalLMOutputWithPast(logits=self.project(hidden_BSD))

    def hidden(self, rows: Mapping[str, Any], features: Sequence[Features]) -> Tensor:
        """The last hidden states [B, S, D] of the model's own forward."""
        inputs = self.heard(rows["input_ids"], features)
        position_ids = rows["position_ids"]
        if position_ids is None and "inputs_embeds" in inputs:  # Omni would take those of its last generation
            position_ids = torch.arange(rows["input_ids"].shape[1], device=self.device)[None]
        inputs |= {"attention_mask": rows["attention_mask"], "position_ids": position_ids}
        if rows["branch_ids"] is not None:
            ids = (rows["clip_ids"], rows["branch_ids"], rows["position_ids"])
            embedding: Any = self.get_input_embeddings()
            config = self.model.language_model.config
            inputs["attention_mask"], blocks = packed(config, *ids, embedding.weight.dtype, training=self.training)
            inputs |= blocks
        return self.model(**inputs, use_cache=False).last_hidden_state

    def project(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits as the model's own forward makes them: capped (Gemma), and never scaled."""
        logits = self.lm_head(hidden)
        cap = getattr(self.config.text_config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def heard(self, input_ids: Tensor, features: Sequence[Features]) -> dict[str, Any]:
        """Inputs of the model: ids with the features of all clips, or what a clip by itself becomes among the text."""
        tensors = [self.moved(one) for one in features]
        if not tensors:
            return {"input_ids": input_ids}
        if self.kind.vectors is None or len({shapes(one) for one in tensors}) == 1:
            return {"input_ids": input_ids, **batched(tensors)}
        is_audio_BS = input_ids == self.config.native_config.audio_token_id
        text_BSD = self.get_input_embeddings()(input_ids.masked_fill(is_audio_BS, 0))
        audio_MD = torch.cat([self.kind.vectors(self.model, one) for one in tensors])
        return {"inputs_embeds": splice(text_BSD, is_audio_BS, audio_MD)}

    def moved(self, clip: Features) -> Features:
        """Features where the encoder is and in its type, without the count of tokens."""
        dtype = next(self.encoder.parameters()).dtype
        return {
            name: tensor.to(self.device, dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in clip.items()
            if name != TOKENS
        }

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor, features: Sequence[Features] = (), **generation: Any
    ) -> Tensor:
        """Prompts padded on the left, and their answers [B, S + T]."""
        inputs = self.heard(input_ids, features)
        if generation.get("num_beams", 1) > 1 and "input_ids" in inputs and features:
            self.refuse_beams(input_ids, features)
        with self.one_type():  # Granite's own `generate` would switch its adapter off where it sees no features
            ids_BS: Any = GenerationMixin.generate(self.native, **inputs, attention_mask=attention_mask, **generation)
        return ids_BS if "input_ids" in inputs else torch.cat([input_ids, ids_BS], dim=1)

    def refuse_beams(self, input_ids: Tensor, features: Sequence[Features]) -> None:
        """ValueError where the library, which repeats window by window, would give a beam the sound of another row."""
        windows = sum(len(next(tensor for name, tensor in clip.items() if name != TOKENS)) for clip in features)
        hears_B = (input_ids == self.config.native_config.audio_token_id).any(dim=1)
        if windows != len(input_ids) or not hears_B.all():
            raise ValueError(
                f"{self.kind.title} takes beams for prompts of one clip in one window alone; "
                "leave num_beams out, or ask such prompts apart from the others"
            )

    def one_type(self) -> AbstractContextManager[Any]:
        """Arithmetic in bfloat16, where parts are held in different types."""
        types = {parameter.dtype for parameter in self.parameters() if parameter.is_floating_point()}
        mixed = torch.bfloat16 in types and torch.float32 in types
        return torch.autocast(self.device.type, torch.bfloat16) if mixed else nullcontext()

    # ranks

    def all_ranks_must_run(self) -> bool:
        """Whether a batch without sound must run the encoder and connector all the same; see `with_silence`."""
        if not (self.training and torch.distributed.is_available() and torch.distributed.is_initialized()):
            return False
        return any(is_trainable(part) or is_sharded(part) for part in (self.encoder, *self.connectors))

    def with_silence(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """The rows, and one more that hears a short silence and supervises nothing, so that all modules run once."""
        silent_S = self.silent_ids.to(rows["input_ids"].device)
        fill = {"attention_mask": 1, "branch_ids": 0, "clip_ids": 0, "shift_labels": IGNORE_INDEX}
        made = {name: torch.full_like(silent_S, value) for name, value in fill.items()}
        made |= {"input_ids": silent_S, "position_ids": torch.arange(len(silent_S), device=silent_S.device)}
        padding = {"clip_ids": PADDING, "shift_labels": IGNORE_INDEX}
        return {
            name: None if row is None else pad_sequence([*row, made[name]], True, padding.get(name, 0))
            for name, row in rows.items()
        }


def batched(clips: Sequence[Features]) -> Features:
    """The windows of all clips one after another, padded with zeros to the longest."""
    together = {}
    for name in clips[0]:
        tensors = [clip[name] for clip in clips]
        sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        windows = []
        for tensor in tensors:
            padded = tensor.new_zeros((len(tensor), *sizes))
            padded[tuple(slice(size) for size in tensor.shape)] = tensor
            windows.append(padded)
        together[name] = torch.cat(windows)
    return together


def shapes(clip: Features) -> tuple[tuple[int, ...], ...]:
    """The shapes of a clip's features, without how many windows there are."""
    return tuple(tuple(tensor.shape[1:]) for tensor in clip.values())
