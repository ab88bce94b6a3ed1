"""Build a model from parts by name: a public checkpoint or a config for the encoder and for the language model.

Not here: loading what was saved (checkpoint.py).
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from audiollm.models.configuration import AudioLLMConfig
from audiollm.models.connectors import build_connector, check_connector
from audiollm.models.encoders import ENCODERS, encoder_class
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.processing import AudioLLMProcessor
from audiollm.models.quantize import check_scheme, quantize_linears

Spec = str | Mapping[str, Any]
"""A checkpoint's name or folder, or a mapping with `checkpoint`, `revision` and `quantize`, or with `config`."""


@dataclass
class Built:
    """A model and the processor that belongs to it: ours, or those around a model that transformers has itself."""

    model: Any
    processor: Any


def build(
    *,
    encoder: Spec,
    connector: Spec = "window_qformer",
    llm: Spec,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    system_prompt: str | None = None,
    dtype: torch.dtype = torch.float32,
    in_bfloat16: Collection[str] = (),
) -> Built:
    """Put the parts together; what has no checkpoint is made at random from its config.

    `encoder`: "openai/whisper-small", {"checkpoint": ..., "revision": ...} or {"name": "whisper", "config": {...}}.
    `connector`: a name, or {"name": ..., settings}. `llm`: like `encoder`, any causal language model of transformers;
    one from a config needs a `tokenizer`; one from a checkpoint may be quantised: {"quantize": "nf4"} or "int8".
    `in_bfloat16`: of "encoder" and "llm", those that are held in bfloat16 if they come from a checkpoint; all else is
    `dtype`. ValueError names what is wrong with a block.
    """
    types = {part: torch.bfloat16 if part in in_bfloat16 else dtype for part in ("encoder", "llm")}
    audio_tower, encoder_base = build_encoder(as_mapping(encoder), types["encoder"])
    causal, llm_base = build_llm(as_mapping(llm), tokenizer, types["llm"])
    tokenizer = tokenizer or load_tokenizer(as_mapping(llm))
    connector_config = check_connector({"name": connector} if isinstance(connector, str) else connector)
    config = AudioLLMConfig(
        audio_config=audio_tower.config, text_config=causal.config, connector_config=connector_config,
        bases={name: base for name, base in (("encoder", encoder_base), ("llm", llm_base)) if base},
        quantize=check_scheme(as_mapping(llm).get("quantize")),
    )  # fmt: skip
    processor = AudioLLMProcessor.from_parts(
        tokenizer=tokenizer,
        audio_config=config.audio_config.to_dict(),
        connector_config=connector_config,
        sampling_rate=config.sampling_rate,
        chat_template_kwargs=dict(chat_template_kwargs or {}),
        system_prompt=system_prompt,
    )
    config.audio_token_id = processor.audio_token_id
    model = assemble(config, audio_tower=audio_tower, language_model=causal.base_model, lm_head=head_of(causal))
    model.generation_config = generation_config(causal.generation_config, processor, config)
    model.model.connector.to(dtype=torch.float32)  # trained: its small updates would be rounded away in bfloat16
    match_connector_scale(model)
    return Built(model, processor)


def as_mapping(spec: Spec) -> dict[str, Any]:
    """A bare name is a checkpoint."""
    return {"checkpoint": spec} if isinstance(spec, str) else dict(spec)


def build_encoder(spec: Mapping[str, Any], dtype: torch.dtype) -> tuple[Any, dict[str, Any] | None]:
    """The encoder and, for a checkpoint, what identifies it."""
    checkpoint = spec.get("checkpoint")
    if checkpoint is None:
        if not spec.get("config"):
            raise ValueError("model.encoder needs `checkpoint` (a name or folder) or `config` (sizes, from scratch)")
        cls = encoder_class(spec.get("name", "whisper"))
        return cls(cls.config_class(**spec["config"])).to(dtype), None
    name = AutoConfig.from_pretrained(checkpoint, revision=spec.get("revision")).model_type
    if name not in ENCODERS:
        raise ValueError(f"{checkpoint} is a {name!r} model, not an encoder; known: {', '.join(sorted(ENCODERS))}")
    tower = ENCODERS[name].load(checkpoint, spec.get("revision")).to(dtype)
    return tower, base_of(spec, tower)


def build_llm(
    spec: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None, dtype: torch.dtype
) -> tuple[Any, dict[str, Any] | None]:
    """The causal language model and, for a checkpoint, what identifies it."""
    checkpoint = spec.get("checkpoint")
    scheme = check_scheme(spec.get("quantize"))
    if checkpoint is not None:
        return load_causal(checkpoint, spec.get("revision"), dtype, scheme)
    if scheme is not None:
        raise ValueError("model.llm: `quantize` holds a frozen language model of a `checkpoint`; drop it, or `config`")
    if not spec.get("config") or tokenizer is None:
        raise ValueError("model.llm needs `checkpoint`, or `config` and `tokenizer: {train_on, vocab_size}`")
    sizes = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(**{"vocab_size": len(tokenizer), **sizes, **spec["config"]})
    return AutoModelForCausalLM.from_config(config).to(dtype), None


def load_causal(
    checkpoint: str, revision: str | None, dtype: torch.dtype, scheme: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """A causal language model, quantised if asked for, and what identifies it: the weights before that."""
    causal: Any = AutoModelForCausalLM.from_pretrained(checkpoint, revision=revision, dtype="auto")
    base = base_of({"checkpoint": checkpoint, "revision": revision}, causal)
    if scheme is not None:
        quantize_linears(causal.base_model, scheme)
    return causal.to(dtype), base


def load_tokenizer(spec: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model's checkpoint."""
    return AutoTokenizer.from_pretrained(spec["checkpoint"], revision=spec.get("revision"))


def head_of(causal: Any) -> nn.Linear:
    """The vocabulary projection of a causal language model."""
    return causal.get_output_embeddings()


def assemble(
    config: AudioLLMConfig, *, audio_tower: Any, language_model: nn.Module, lm_head: nn.Linear
) -> AudioLLMForConditionalGeneration:
    """A model around parts that are there already, with a new connector; nothing is initialised twice."""
    with torch.device("meta"):
        model = AudioLLMForConditionalGeneration(config)
    encoder, audio_config = ENCODERS[config.audio_config.model_type], config.audio_config.to_dict()
    connector = build_connector(
        config.connector_config,
        dim_in=encoder.width(audio_config),
        dim_out=config.text_config.hidden_size,
        frame_rate_hz=encoder.frame_rate_hz(audio_config),
    )
    model.model.audio_tower = audio_tower
    model.model.connector = connector
    model.model.language_model = language_model
    model.lm_head = lm_head
    model.lora_config = None
    model.tie_weights()
    return model.eval()


def generation_config(
    base: GenerationConfig | None, processor: AudioLLMProcessor, config: AudioLLMConfig
) -> GenerationConfig:
    """The language model's own, which also stops at the template's end of turn and never says a placeholder."""
    made = base or GenerationConfig()
    known = made.eos_token_id if isinstance(made.eos_token_id, list) else [made.eos_token_id]
    made.eos_token_id = sorted({i for i in [*known, *processor.stop_token_ids] if i is not None})
    if made.pad_token_id is None:
        made.pad_token_id = processor.tokenizer.pad_token_id or made.eos_token_id[0]
    if config.audio_token_id is not None and config.audio_token_id < config.text_config.vocab_size:
        made.suppress_tokens = [config.audio_token_id]
    return made


@torch.no_grad()
def match_connector_scale(model: AudioLLMForConditionalGeneration) -> float:
    """Scale the connector's last layer so that audio vectors are as loud as text embeddings; returns the factor.

    A default linear layer is about 30 times quieter, and the language model would ignore it for thousands of steps.
    """
    embedding: Any = model.get_input_embeddings()
    ids = torch.linspace(0, embedding.weight.shape[0] - 1, 1000, device=embedding.weight.device).long()
    noise = torch.randn(1, 2 * model.config.sampling_rate, generator=torch.Generator().manual_seed(0)) * 0.1
    noise = noise.to(embedding.weight.device)
    training = model.training
    model.eval()
    heard: Any = model.get_audio_features(noise, torch.ones_like(noise, dtype=torch.bool)).pooler_output
    model.train(training)
    factor = float(rms(embedding(ids)) / rms(heard).clamp(min=1e-12))
    model.model.connector.output.weight.mul_(factor)
    model.model.connector.output.bias.mul_(factor)
    return factor


def rms(x: Tensor) -> Tensor:
    """Root mean square."""
    return x.float().square().mean().sqrt()


def base_of(spec: Mapping[str, Any], part: nn.Module) -> dict[str, Any]:
    """What identifies a pretrained part: name, revision, fingerprint."""
    checkpoint, revision = str(spec["checkpoint"]), spec.get("revision")
    return {"checkpoint": checkpoint, "revision": revision, "fingerprint": fingerprint(part)}


def check_fingerprint(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """ValueError if the base's weights are not those that the checkpoint was trained with."""
    if found["fingerprint"] != expected["fingerprint"]:
        raise ValueError(
            f"{expected['checkpoint']} is not the model that this checkpoint was trained with "
            f"(fingerprint {found['fingerprint']}, expected {expected['fingerprint']}); pin its `revision`"
        )


def fingerprint(part: nn.Module, samples: int = 256) -> str:
    """A hash over every tensor's name, shape and some of its values, in bfloat16 however they were loaded."""
    digest = hashlib.sha256()
    for name, tensor in sorted(part.state_dict().items()):
        flat = tensor.detach().flatten()
        picked = flat[:: max(1, flat.numel() // samples)][:samples].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(picked.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
