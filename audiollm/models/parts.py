"""Build a model from parts by name: a public checkpoint or a config for the encoder and for the language model.

Not here: loading what was saved (checkpoint.py).
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from audiollm.models.configuration import AudioLLMConfig
from audiollm.models.connectors import check_connector
from audiollm.models.encoders import SideBySide, SideBySideConfig, encoder_class, encoder_of
from audiollm.models.encoders.loading import tower_config
from audiollm.models.encoders.registry import CLASS, names_itself
from audiollm.models.listening import LISTENING, ListeningSettings
from audiollm.models.modeling import AudioLLMForConditionalGeneration, connector_between
from audiollm.models.processing import AudioLLMProcessor
from audiollm.models.quantize import check_scheme, quantize_linears
from audiollm.models.settings import SettingError

T = TypeVar("T")
Spec = str | Mapping[str, Any]
"""A checkpoint's name or folder, or a mapping with `checkpoint`, `revision` and `quantize`, or with `config`."""


EncoderSpec = Spec | Sequence[Spec]
"""One encoder, or several that hear the same clip side by side."""


@dataclass
class Built:
    """A model and the processor that belongs to it: ours, or those around a model that transformers has itself."""

    model: Any
    processor: Any


def build(
    *,
    encoder: EncoderSpec,
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
    audio_tower, encoder_base = build_encoder(encoder, types["encoder"])
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
    settle_connector(model)
    return Built(model, processor)


def as_mapping(spec: Spec) -> dict[str, Any]:
    """A bare name is a checkpoint."""
    return {"checkpoint": spec} if isinstance(spec, str) else dict(spec)


def build_encoder(spec: EncoderSpec, dtype: torch.dtype) -> tuple[Any, dict[str, Any] | None]:
    """The encoder and, for a checkpoint, what identifies it; of several, what identifies each, if all have one."""
    if not isinstance(spec, str | Mapping):
        built = each(spec, lambda one: build_encoder(one, dtype))
        towers, bases = [tower for tower, _ in built], [base for _, base in built]
        tower = SideBySide(SideBySideConfig(encoders=[one.config for one in towers]), towers)
        return tower, {"several": bases} if all(bases) else None
    spec = as_mapping(spec)
    checkpoint = spec.get("checkpoint")
    if checkpoint is None:
        config = encoder_on_paper(spec)
        return encoder_of(config.to_dict())(config).to(dtype), None
    tower = class_of_checkpoint(spec).load(checkpoint, spec.get("revision")).to(dtype)
    say_how_to_listen(tower.config, spec)
    return tower, base_of(spec, tower)


def each(specs: Sequence[Spec], make: Callable[[Spec], T]) -> list[T]:
    """What is made of each of several encoders; a SettingError says which one it is about."""
    made: list[T] = []
    for number, one in enumerate(specs):
        try:
            made.append(make(one))
        except SettingError as error:
            raise SettingError(error.key.replace("encoder.", f"encoder.{number}."), error.cause) from error
    return made


def encoder_on_paper(spec: EncoderSpec) -> Any:
    """The config of an encoder, or of several, without its weights."""
    if not isinstance(spec, str | Mapping):
        return SideBySideConfig(encoders=each(spec, encoder_on_paper))
    spec = as_mapping(spec)
    if spec.get("checkpoint") is not None:
        config = config_of_checkpoint(spec)
    elif spec.get("config"):
        config = encoder_class(spec.get("name") or "whisper").config_class(**spec["config"])
    else:
        raise ValueError("model.encoder needs `checkpoint` (a name or folder) or `config` (sizes, from scratch)")
    say_how_to_listen(config, spec)
    return config


def class_of_checkpoint(spec: Mapping[str, Any]) -> Any:
    """The encoder class for a checkpoint: by its name, or by what it is."""
    name = spec.get("name")
    if name is not None and not names_itself(name):
        return encoder_class(name)
    return encoder_class(config_of_checkpoint(spec).model_type)


def config_of_checkpoint(spec: Mapping[str, Any]) -> Any:
    """The encoder's config that a checkpoint has."""
    checkpoint, revision, name = str(spec["checkpoint"]), spec.get("revision"), spec.get("name")
    if name is not None and not names_itself(name):
        return encoder_class(name).config_class.from_pretrained(checkpoint, revision=revision or "main")
    config = tower_config(checkpoint, revision)
    if name not in (None, config.model_type):
        raise ValueError(f"model.encoder: {checkpoint} is a {config.model_type}, not a {name}; leave `name` out")
    return config


def say_how_to_listen(config: Any, spec: Mapping[str, Any]) -> None:
    """Write into an encoder's config which layers are heard and in which windows, and whose class it is."""
    settings = ListeningSettings(**{key: spec[key] for key in ListeningSettings.model_fields if key in spec})
    if said := settings.model_dump(exclude_defaults=True):
        setattr(config, LISTENING, said)
    name = spec.get("name")
    if name is not None and not names_itself(name):
        setattr(config, CLASS, name)
    sizes, cls = config.to_dict(), encoder_of(config.to_dict())
    if cls.taps(sizes) or settings.window_s or settings.overlap_s:
        cls.windows(sizes)  # refuses what does not fit the encoder
    if settings.frequency:
        cls.frequency(sizes)


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
    model.model.audio_tower = audio_tower
    model.model.connector = connector_between(config)
    model.model.language_model = language_model
    model.lm_head = lm_head
    model.lora_config = model.encoder_lora_config = None
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


def renew_connector(built: Built, connector: Spec) -> None:
    """Another connector, at its start, between the encoder and the language model of a checkpoint."""
    config = built.model.config
    config.connector_config = check_connector({"name": connector} if isinstance(connector, str) else connector)
    built.model.model.connector = connector_between(config).to(built.model.device)
    built.processor.connector_config = dict(config.connector_config)
    settle_connector(built.model)
    built.model.eval()


def settle_connector(model: AudioLLMForConditionalGeneration) -> None:
    """A new connector is held in float32, and speaks as loud as text unless it is to start as published."""
    model.model.connector.to(dtype=torch.float32)  # trained: its small updates would be rounded away in bfloat16
    match_connector_scale(model)


@torch.no_grad()
def match_connector_scale(model: AudioLLMForConditionalGeneration) -> float:
    """Scale the connector's last layer so that audio vectors are as loud as text embeddings; returns the factor.

    A default linear layer is about 30 times quieter, and the language model would ignore it for thousands of steps.
    `init: published` leaves it alone.
    """
    if model.config.connector_config.get("init") == "published":
        return 1.0
    embedding: Any = model.get_input_embeddings()
    ids = torch.linspace(0, embedding.weight.shape[0] - 1, 1000, device=embedding.weight.device).long()
    generator = torch.Generator("cpu").manual_seed(0)  # on the CPU, whatever the default device
    noise = torch.randn(1, 2 * model.config.sampling_rate, generator=generator, device="cpu") * 0.1
    noise = noise.to(embedding.weight.device)
    training = model.training
    model.eval()
    heard: Any = model.get_audio_features(noise, torch.ones_like(noise, dtype=torch.bool)).pooler_output
    model.train(training)
    factor = float(rms(embedding(ids)) / rms(heard).clamp(min=1e-12))
    for parameter in model.model.connector.output.parameters():
        parameter.mul_(factor)
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
