"""A recipe: the parts of a model and the stages that train it, as closed and documented settings.

`load_recipe("quickstart", ["stages.align.trainer.max_steps=20"])` reads the file, what it stands on (`base:`) and the
command line, and says of every value where it came from.
Not here: reading and merging the files (recipe_files.py), the `trainer:` block (recipe_trainer.py), what a stage does
(training/), the encoders' and the connectors' own settings (models/).
"""

import glob
import json
import re
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Tag,
    ValidationError,
    model_validator,
)

from audiollm.data.augment import AugmentSettings
from audiollm.data.licences import Policy
from audiollm.models.listening import ListeningSettings
from audiollm.models.plugins import import_own
from audiollm.models.settings import SettingError, Settings, nearest, refuse_unknown
from audiollm.recipe_files import Layers, RecipeError, read_layers, resolve
from audiollm.recipe_trainer import MUON, check_trainer, default_learning_rate, trainer_types
from audiollm.resources import packaged_files

__all__ = ["Recipe", "RecipeError", "load_recipe", "missing_files", "recipe_schema", "require_files", "require_stage"]

Part = Literal["encoder", "encoder_lora", "connector", "lora", "llm", "text", "projection"]
PARTS_OF_TOWERS = ("encoder", "text", "projection")
PARTS_OF_AUDIO_LLM = ("encoder", "encoder_lora", "connector", "lora", "llm")
ObjectiveName = Literal["language_modeling", "contrastive", "ctc", "distillation"]
S = TypeVar("S", bound=Settings)


def check_folder_name(name: str) -> str:
    """Refuse a name that could not be a folder everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} cannot name a folder: use letters, digits and . _ -")
    return name


FolderName = Annotated[str, AfterValidator(check_folder_name)]


def drop_nulls(values: Any) -> Any:
    """A named entry set to null is left out: so a recipe can do without a stage or objective of its base."""
    return {k: v for k, v in values.items() if v is not None} if isinstance(values, Mapping) else values


def as_path(value: Any) -> Any:
    """A source may be written as its path alone."""
    return {"path": value} if isinstance(value, str) else value


def as_weight(value: Any) -> Any:
    """An objective may be written as its weight alone."""
    return {"weight": value} if isinstance(value, int | float) else value


# ---------------------------------------------------------------------------------------------------------- the model


def check_encoder_name(name: str | None) -> str | None:
    """Refuse an encoder that is not in the table, and cannot be imported."""
    from audiollm.models.encoders import encoder_class

    if name is not None:
        import_own(name, "encoder")
        encoder_class(name)
    return name


def check_connector_block(block: dict[str, Any]) -> dict[str, Any]:
    """The block with the connector's defaults filled in."""
    from audiollm.models.connectors import check_connector

    import_own(str(block.get("name", "")), "connector")
    return check_connector(block)


class EncoderSettings(ListeningSettings):
    """An audio encoder: a pretrained one by `checkpoint`, or one from scratch by `config`."""

    name: Annotated[str | None, AfterValidator(check_encoder_name)] = None
    """Family of the encoder, or `package.module:Class` of your own; null takes what the checkpoint is, or whisper."""
    checkpoint: str | None = None
    """Name on the Hugging Face hub, or a folder; of `name: openai_whisper`, a model of that package, or a .pt file."""
    revision: str | None = None
    """Commit or tag of the checkpoint; pin it for a run that can be repeated."""
    config: dict[str, Any] | None = None
    """Sizes of an encoder from scratch, in the words of its transformers configuration."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        return needs_one_of(self, "checkpoint", "config")


class TokenizerSettings(Settings):
    """A tokenizer trained for a language model from scratch."""

    train_on: str
    """Rows whose text it is trained on."""
    vocab_size: PositiveInt = 1000
    """Size of the vocabulary, special tokens included."""


class ReaderSettings(Settings):
    """A model that reads text: a pretrained one by `checkpoint`, or one from scratch by `config` and `tokenizer`."""

    checkpoint: str | None = None
    """Name on the Hugging Face hub, or a folder."""
    revision: str | None = None
    """Commit or tag of the checkpoint; pin it for a run that can be repeated."""
    config: dict[str, Any] | None = None
    """Sizes of a model from scratch: `model_type` and the words of that transformers configuration."""
    tokenizer: TokenizerSettings | None = None
    """The tokenizer of a model from scratch."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        needs_one_of(self, "checkpoint", "config")
        if (self.config is None) != (self.tokenizer is None):
            raise ValueError("`config` and `tokenizer` go together: they make a language model from scratch")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("`config` needs a `model_type`, such as qwen3")
        return self


class LanguageModelSettings(ReaderSettings):
    """The language model: a pretrained one by `checkpoint`, or one from scratch by `config` and `tokenizer`."""

    quantize: Literal["nf4", "int8"] | None = None
    """Holds the weights of a frozen `checkpoint` in 4 bits (nf4) or 8 (int8), on which LoRA and the connector train."""

    @model_validator(mode="after")
    def _quantizes_a_checkpoint(self) -> Self:
        if self.quantize is not None and self.checkpoint is None:
            raise ValueError("`quantize` holds the frozen weights of a `checkpoint`; one from a `config` must train")
        return self


class TextTowerSettings(ReaderSettings):
    """The text encoder of two towers: any model of transformers that gives a state for each token."""

    pooling: Literal["mean", "first", "last"] | None = None
    """What stands for a text: the mean of its tokens' states, or the first or the last one. Null takes the last of a
    model that reads from left to right, and the mean of any other."""


class ProjectionSettings(Settings):
    """The space in which sounds and texts are compared; each tower has two linear layers into it, as CLAP has them."""

    width: PositiveInt = 512
    """Width of the space."""
    temperature: Annotated[float, Field(ge=0.01)] = 0.07
    """Where the learned temperature starts; it is never less than 0.01."""


Encoders = Annotated[
    Annotated[EncoderSettings, Tag("one")] | Annotated[list[EncoderSettings], Field(min_length=2), Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
]


class ModelSettings(Settings):
    """The parts of the model, or one of our own checkpoints to start from."""

    kind: Literal["two_towers"] | None = None
    """`two_towers`: an audio and a text encoder that are brought near to each other; null: an audio language model."""
    encoder: Encoders | None = None
    """What listens; of a list, each hears the same clip, and their frames stand side by side."""
    connector: Annotated[dict[str, Any], AfterValidator(check_connector_block)] | None = None
    """What carries the encoder's frames to the language model: its `name`, and that connector's own settings.

    Beside `checkpoint` it is a new one, in place of the checkpoint's."""
    llm: LanguageModelSettings | None = None
    """What reads and answers."""
    text: TextTowerSettings | None = None
    """What reads, of two towers."""
    projection: ProjectionSettings | None = None
    """The space that two towers share; null takes the defaults."""
    checkpoint: str | None = None
    """A whole model to start from, instead of its parts: a checkpoint of this package, or an audio language model
    that transformers has itself, such as Qwen/Qwen2-Audio-7B-Instruct."""
    revision: str | None = None
    """Commit or tag of `checkpoint`; pin it for a run that can be repeated."""
    quantize: Literal["nf4", "int8"] | None = None
    """Holds the language model of `checkpoint` in 4 bits (nf4) or 8 (int8); null takes it as it was trained."""
    chat_template_kwargs: Annotated[dict[str, Any], BeforeValidator(drop_nulls)] = Field(default={})
    """Settings of the language model's chat template, such as Qwen3's `enable_thinking: false`; null leaves one out."""
    system_prompt: str | None = None
    """Put before every conversation that has no system message of its own."""
    attn_implementation: str | None = None
    """Attention of the language model in training (sdpa, eager, flex_attention, flash_attention_2); null chooses."""

    @model_validator(mode="after")
    def _parts_or_checkpoint(self) -> Self:
        needed = ("encoder", "text") if self.is_two_towers else ("encoder", "connector", "llm")
        missing = [name for name in needed if getattr(self, name) is None]
        if self.checkpoint is None and missing:
            raise ValueError(f"{' and '.join(missing)} missing; or give the `checkpoint` of a whole model")
        if self.checkpoint is not None and any((self.encoder, self.llm, self.text, self.projection)):
            raise ValueError(
                "give either `checkpoint` (a whole model, and a new `connector` if you like) or its parts; "
                "null leaves an inherited one out"
            )
        if self.checkpoint is None and (self.quantize or self.revision):
            raise ValueError(
                "`quantize` and `revision` here are of a whole `checkpoint`; say them of `llm` or `encoder`"
            )
        return self

    @model_validator(mode="after")
    def _only_what_its_kind_has(self) -> Self:
        of_audio_llm = ("connector", "llm", "quantize", "chat_template_kwargs", "system_prompt", "attn_implementation")
        foreign = of_audio_llm if self.is_two_towers else ("text", "projection")
        given = [name for name in foreign if getattr(self, name)]
        if given and self.is_two_towers:
            raise ValueError(
                f"`kind: two_towers` has an `encoder` and a `text` tower, and no `{given[0]}`; leave it out"
            )
        if given:
            raise ValueError(f"`{given[0]}` is of two towers; say `kind: two_towers`, or leave it out")
        return self

    @property
    def is_two_towers(self) -> bool:
        """Whether it is an audio and a text encoder, and no audio language model."""
        return self.kind == "two_towers"

    @property
    def shared_space(self) -> ProjectionSettings:
        """The space of two towers, the defaults filled in."""
        return self.projection or ProjectionSettings()

    @property
    def reader(self) -> ReaderSettings | None:
        """What reads text: the language model, or the text tower."""
        return self.text if self.is_two_towers else self.llm

    @property
    def reader_key(self) -> str:
        """Where a recipe says what reads text."""
        return "model.text" if self.is_two_towers else "model.llm"

    @property
    def encoders(self) -> list[EncoderSettings]:
        """What listens, one or several."""
        return self.encoder if isinstance(self.encoder, list) else [self.encoder] if self.encoder else []

    @property
    def encoder_spec(self) -> Any:
        """What listens, as `parts.build` takes it."""
        specs = [encoder.model_dump(exclude_none=True) for encoder in self.encoders]
        return specs if isinstance(self.encoder, list) else specs[0]


def needs_one_of(settings: S, one: str, other: str) -> S:
    """Refuse settings that say both or neither of two keys."""
    if (getattr(settings, one) is None) == (getattr(settings, other) is None):
        raise ValueError(f"give either `{one}` or `{other}`; null leaves an inherited one out")
    return settings


# ------------------------------------------------------------------------------------------------------------- stages


HUB = "hf://datasets/"


class SourceSettings(Settings):
    """Rows from one file, or from several of one kind."""

    path: str
    """File, folder of recordings with text files, or a pattern such as rows/*.jsonl; relative to the working folder.

    Of shards of WebDataset (shards/*.tar) a row is the `.wav`, `.flac`, ... and the `.json` (its fields, in any format)
    or else the `.txt` (its answer) of one key, which stand next to each other. hf://datasets/OWNER/NAME is a data set
    of the Hugging Face hub, which is downloaded once to the hub's cache, or as a stream read where it lies, if that is
    Parquet; none of its code is run. s3://bucket/folder (gs:// ...) is Parquet in an object store."""
    config: str | None = None
    """Configuration of a data set of the hub; null takes the only one or its default."""
    split: str | None = None
    """Split of a data set of the hub; null takes `train`."""
    revision: str | None = None
    """Commit or tag of a data set of the hub; pin it for a run that can be repeated."""
    format: str | None = None
    """Whose rows they are; null recognises it."""
    tasks: list[str] | None = None
    """Only rows of these tasks."""
    weight: PositiveFloat = 1.0
    """Share in the mixture, relative to the other sources; 1 for each row."""
    limit: PositiveInt | None = None
    """At most so many rows."""
    stream: bool = False
    """Whether the rows stay on disk (JSONL, Parquet, .tar) and are read when needed. An index is made once, under
    `${cache}/index`; rows about one recording are brought together where they are neighbours."""
    audio: Literal["sound", "as_description", "omit"] = "sound"
    """What stands where the audio is: the sound, the scene written out (to teach a language model), or nothing."""

    @model_validator(mode="after")
    def _hub_or_files(self) -> Self:
        if not self.path.startswith(HUB) and (self.config or self.split or self.revision):
            raise ValueError(f"`config`, `split` and `revision` are for data sets of the hub, {HUB}OWNER/NAME")
        return self


Source = Annotated[SourceSettings, BeforeValidator(as_path, json_schema_input_type=str | SourceSettings)]


class DataSettings(Settings):
    """What a stage trains and validates on."""

    train: Annotated[list[Source], Field(min_length=1)]
    """Sources that are mixed by their weights."""
    temperature: PositiveFloat | None = None
    """Evens sources of unlike size out: the share of each is (its recordings * its weight) ** (1 / temperature). 1 and
    null change nothing, more brings the shares nearer to one another; all together are heard as often as before."""
    validation: list[Source] = Field(default=[])
    """Rows that are never trained on: their loss picks the best checkpoint."""
    questions_per_clip: PositiveInt | None = None
    """At most so many questions share one clip in a sequence; null lets all of them."""
    num_samples: PositiveInt | None = None
    """Recordings in an epoch, where a source is a stream; null takes as many as there are."""
    batch_tokens: PositiveInt | None = None
    """Tokens (sound and text) up to which clips fill a micro-batch; null takes `per_device_train_batch_size` clips.

    What a teacher reads (`objectives.distillation`) counts too. A clip that takes more is a batch of its own, and
    `num_train_epochs` then counts in epochs of the first one's length."""
    max_tokens: PositiveInt | None = None
    """Tokens that a row, and the questions of a clip in one sequence, may have; null lets a row have as many as the
    language model has positions. What a teacher reads is a sequence of its own, and does not count here."""
    too_long: Literal["refuse", "drop", "split"] = "drop"
    """What becomes of more: stop before training, leave the rows out (they are listed), or first split the questions
    of a clip over several sequences."""
    pack_tokens: PositiveInt | None = None
    """Tokens in one packed sequence; null packs a micro-batch into one, or with eager attention keeps clips apart."""
    group_by_length: bool = True
    """Whether clips of like length share a batch, which spares padding; false mixes them, so that batches vary."""
    cache_features: bool = False
    """Whether what a frozen encoder gives is kept on disk (bfloat16): each clip is encoded once for all stages."""
    augment: AugmentSettings | None = None
    """Noise, rooms, speed, levels, stripes ... on the sound of training, drawn anew in each epoch, by the seed."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Stop where more of the rows, or of the recordings heard, cannot be used; RUN/quarantine.jsonl lists them."""
    supervise: Literal["last", "all"] = "last"
    """Which of the assistant's turns the loss counts."""

    @model_validator(mode="after")
    def _streams_and_budgets(self) -> Self:
        streamed = any(source.stream for source in self.train)
        if any(source.stream for source in self.validation):
            raise ValueError("validation rows are read whole, in their order; `stream` is for `train`")
        if self.temperature not in (None, 1) and len(self.train) == 1:
            raise ValueError("`temperature` evens several sources out, and `train` has one")
        if self.augment and self.cache_features:
            raise ValueError("`cache_features` keeps what is heard, and `augment` changes it each time; leave one out")
        if self.num_samples and not streamed:
            raise ValueError("`num_samples` is for streams; a source becomes one with `stream: true`")
        if self.batch_tokens and self.max_tokens and self.batch_tokens < self.max_tokens:
            raise ValueError(
                f"`batch_tokens` is {self.batch_tokens:,}, and `max_tokens` lets a row of {self.max_tokens:,} in, "
                "which no such batch can hold; raise `batch_tokens` or lower `max_tokens`"
            )
        return self

    @property
    def measured(self) -> bool:
        """Whether the lengths of all rows are to be known before training."""
        return bool(self.batch_tokens or self.max_tokens or self.too_long != "drop")


class ObjectiveSettings(Settings):
    """A part of the loss: its weight, and the objective's own settings."""

    model_config = ConfigDict(extra="allow")

    weight: NonNegativeFloat = 1.0
    """Factor of this objective in the sum."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        return values  # the objective checks its own settings when the stage is set up

    @property
    def own(self) -> dict[str, Any]:
        """The objective's own settings."""
        return dict(self.model_extra or {})


Objective = Annotated[ObjectiveSettings, BeforeValidator(as_weight, json_schema_input_type=float | ObjectiveSettings)]


class LoraSettings(Settings):
    """Low-rank adapters on the language model, or on the encoder."""

    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveFloat = 32
    """Scale: the adapters' output is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the adapters, in training."""
    target_modules: str | list[str] = "all-linear"
    """Names (or one pattern) of the linear layers that get adapters."""


def check_objectives(values: Any) -> Any:
    """Refuse an objective of no known name."""
    if isinstance(values, Mapping):
        refuse_unknown(values, typing.get_args(ObjectiveName), title="objectives", what="an objective")
    return drop_nulls(values)


def check_parts(values: Any) -> Any:
    """Refuse what is not a list or mapping of parts, and a part of no known name."""
    known = typing.get_args(Part)
    if not isinstance(values, list | Mapping):
        raise ValueError(f"is a list of parts ({', '.join(known)}), or part -> learning rate, and not {values!r}")
    for part in values:
        if part not in known:
            raise ValueError(f"{part!r} is not a part of the model; {nearest(part, known)}")
    return drop_nulls(values)


Parts = Annotated[
    Annotated[list[Part], Tag("list")] | Annotated[dict[Part, PositiveFloat], Tag("mapping")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "mapping"),
]


class StageSettings(Settings):
    """What trains, on which rows, with which objectives, for how long."""

    objectives: Annotated[dict[ObjectiveName, Objective], BeforeValidator(check_objectives), Field(min_length=1)]
    """The loss: name -> weight, or name -> {weight, the objective's own settings}."""
    train: Annotated[Parts, BeforeValidator(check_parts)]
    """The parts that train, all at `trainer.learning_rate`; or part -> its own learning rate."""
    data: DataSettings
    """Rows to train and to validate on."""
    lora: LoraSettings | None = None
    """The adapters, where `lora` trains; null takes the defaults."""
    encoder_lora: LoraSettings | None = None
    """The encoder's adapters, where `encoder_lora` trains; null takes the defaults."""
    lora_scale: PositiveFloat | None = None
    """Multiplies what LoRA adds, beside alpha / r, from this stage on; null leaves it as it was (1 at the start).

    SALMONN's activation tuning is a few steps on long answers with a scale below 1."""
    merge_lora: bool = False
    """Whether the LoRA of earlier stages is added to the language model's weights before this stage adds its own.

    The language model then differs from its public base, and checkpoints hold it whole."""
    max_bad_steps: PositiveInt = 10
    """So many steps in a row whose loss or gradient is not finite stop the stage; a single one is skipped."""
    trainer: Annotated[dict[str, Any], AfterValidator(check_trainer)] = Field(default={})
    """Any key of transformers' TrainingArguments, except those that this package owns.

    With `bf16: true` the arithmetic is in bfloat16 and what trains is held in float32. Where that is so in all stages,
    an encoder or language model from a public `checkpoint` that none of them trains is held in bfloat16 too.
    `optim: adamw_bnb_8bit` keeps AdamW's state in 8 bits; `optim: muon` moves the weights of linear layers by Muon, and
    all else by AdamW.
    """

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if not self.train:
            raise ValueError(f"trains nothing; `train:` lists some of {', '.join(typing.get_args(Part))}")
        if isinstance(self.train, list) and len(set(self.train)) < len(self.train):
            raise ValueError("`train:` names a part twice")
        if isinstance(self.train, dict) and "learning_rate" in self.trainer:
            raise ValueError("`train:` gives each part its learning rate; leave `trainer.learning_rate` out")
        for part in ("lora", "encoder_lora"):
            if getattr(self, part) is not None and part not in self.train:
                raise ValueError(f"has a `{part}:` block, but `{part}` is not under `train:`")
        if self.data.cache_features and {"encoder", "encoder_lora"} & set(self.train):
            raise ValueError("has `cache_features`, which keeps what a frozen encoder hears, and trains the encoder")
        if all(objective.weight == 0 for objective in self.objectives.values()):
            raise ValueError("every objective has weight 0")
        return self

    @property
    def learning_rates(self) -> dict[str, float]:
        """The parts that train, and the learning rate of each."""
        if isinstance(self.train, dict):
            return {part: float(rate) for part, rate in self.train.items()}
        rate = float(self.trainer.get("learning_rate", default_learning_rate()))
        return {part: rate for part in self.train}

    @property
    def by_muon(self) -> bool:
        """Whether Muon moves what are matrices."""
        return bool(self.trainer.get("optim") == MUON)

    @property
    def adapters(self) -> dict[str, LoraSettings]:
        """The settings of the adapters that train, the defaults filled in."""
        every = {"lora": self.lora, "encoder_lora": self.encoder_lora}
        return {part: settings or LoraSettings() for part, settings in every.items() if part in self.train}


# --------------------------------------------------------------------------------------------------------- the recipe


LABEL_TEMPLATE = "This is a sound of {label}."


def check_template(template: str) -> str:
    """Refuse a template that would say the same of all classes."""
    if "{label}" not in template:
        raise ValueError(f"{template!r} has no {{label}} in it, so all classes would be the same text")
    return template


class EvaluationSettings(Settings):
    """Rows that the finished model answers."""

    path: str
    """Rows with their right answers."""
    name: FolderName | None = None
    """Name of the table; null takes the file's."""
    blind: bool = False
    """Ask the same without the audio too, to see what was heard and what was guessed."""
    tasks: list[str] | None = None
    """Only rows of these tasks."""
    limit: PositiveInt | None = None
    """At most so many rows."""
    max_new_tokens: PositiveInt = 64
    """Longest answer."""
    batch_size: PositiveInt = 64
    """Questions answered at once."""
    template: Annotated[str, AfterValidator(check_template)] = LABEL_TEMPLATE
    """How two towers are told the label of a class."""

    @property
    def title(self) -> str:
        """The name of the table."""
        return self.name or Path(self.path).stem


Evaluation = Annotated[EvaluationSettings, BeforeValidator(as_path, json_schema_input_type=str | EvaluationSettings)]


class TextCheckSettings(Settings):
    """Rows without sound, by whose loss forgetting shows."""

    path: str
    """Rows of text alone, such as answers of the language model itself or of what it was tuned on."""
    name: FolderName | None = None
    """Name in the tables; null takes the file's."""
    limit: PositiveInt | None = 200
    """At most so many rows."""

    @property
    def title(self) -> str:
        """The name in the tables."""
        return self.name or Path(self.path).stem


TextCheck = Annotated[TextCheckSettings, BeforeValidator(as_path, json_schema_input_type=str | TextCheckSettings)]


class Recipe(Settings):
    """The parts of a model and its stages, in one YAML file."""

    name: FolderName
    """Name of the run."""
    base: str | None = None
    """A recipe that this one stands on: a packaged name, or a path relative to this file."""
    output: str = "runs/${name}"
    """Folder for checkpoints, logs and the report."""
    data: str = "data"
    """Folder for rows and recordings; written `${data}` in the rest of the recipe."""
    cache: str = "${output}/cache"
    """Folder for what is computed once: indices of streams, features that are kept. Runs may share one."""
    seed: NonNegativeInt = 0
    """Of everything that is drawn at random."""
    audio_cache_gib: NonNegativeFloat = 1.0
    """Memory for decoded clips, in GiB a process, so that later epochs and stages need not decode them again."""
    feature_cache_gib: NonNegativeFloat = 50.0
    """Room for `cache_features`, in GiB under `${cache}/features`; what does not fit is encoded when it is heard."""
    license_policy: Policy = "any"
    """Which rows may be trained on: `any`, `research` (all that does not forbid it), or `commercial`.

    A mixture with other rows is refused, with their sources and licences."""
    refuse_overlap: bool = False
    """Whether a recording of training that is also asked about under `evaluate` stops the run before it begins.

    Recordings are compared by the names of their sources and by sound; `audiollm overlap` lists them."""
    refuse_duplicates: bool = False
    """Whether two clips of one recording in training, in one set or two, stop the run before it begins.

    Compared as for `refuse_overlap`; rows that ask about the same clip are none, nor are cuts of one file."""
    prepare: dict[str, Annotated[dict[str, Any], BeforeValidator(lambda options: options or {})]] = Field(default={})
    """Rows that a data converter makes when they are not there yet: converter -> its options."""
    model: ModelSettings
    """What is trained."""
    stages: Annotated[dict[FolderName, StageSettings], BeforeValidator(drop_nulls), Field(min_length=1)]
    """In order, each from the one before."""
    evaluate: list[Evaluation] = Field(default=[])
    """What the finished model is asked."""
    text_check: list[TextCheck] = Field(default=[])
    """Rows of text whose loss is measured before and after each stage, to see what the language model forgets."""

    _layers: Layers = PrivateAttr(default_factory=Layers)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key, entries in (("evaluate", self.evaluate), ("text_check", self.text_check)):
            titles = [entry.title for entry in entries]
            if len(set(titles)) < len(titles):
                raise ValueError(f"{key}: two entries have the same name; give each its `name`")
        if taken := set(self.stages) & {"cache", "logs", "unfinished"}:
            raise ValueError(f"stages: {taken.pop()} is a folder that every run has; give the stage another name")
        self._check_parts()
        key, block = ("model.llm", self.model.llm) if self.model.llm else ("model", self.model)
        training = [name for name, stage in self.stages.items() if "llm" in stage.train]
        if block.quantize and training:
            raise ValueError(
                f"{key}.quantize: {block.quantize} freezes the language model, and stage {training[0]} trains `llm`; "
                "train `lora` in its place, or leave `quantize` out"
            )
        merging = [name for name, stage in self.stages.items() if stage.merge_lora]
        if block.quantize and merging:
            raise ValueError(
                f"{key}.quantize: {block.quantize} holds the language model, and stage {merging[0]} has `merge_lora`, "
                "which changes its whole weights; leave one of the two out"
            )
        return self

    def _check_parts(self) -> None:
        """ValueError for a stage that trains, or asks for, what its kind of model does not have."""
        parts = PARTS_OF_TOWERS if self.model.is_two_towers else PARTS_OF_AUDIO_LLM
        what = "two towers have" if self.model.is_two_towers else "an audio language model has"
        for name, stage in self.stages.items():
            if foreign := [part for part in stage.train if part not in parts]:
                raise ValueError(f"stages.{name}.train: {what} no `{foreign[0]}`; known: {', '.join(parts)}")
            if self.model.is_two_towers and list(stage.objectives) != ["contrastive"]:
                raise ValueError(f"stages.{name}.objectives: two towers learn by `contrastive`, and by nothing else")
            asked = {
                "trainer.use_liger_kernel": stage.trainer.get("use_liger_kernel"),
                "merge_lora": stage.merge_lora,
                "lora_scale": stage.lora_scale,
            }
            for key, value in asked.items():
                if self.model.is_two_towers and value:
                    raise ValueError(f"stages.{name}.{key}: is for language models; leave it out")
        if self.model.is_two_towers and self.text_check:
            raise ValueError("text_check: is for language models; leave it out")

    @property
    def in_bfloat16(self) -> list[str]:
        """The parts that are held in bfloat16 if they are public bases: no stage trains them or wants float32.

        What trains, and what was trained before, is float32.
        """
        if not all(stage.trainer.get("bf16", False) for stage in self.stages.values()):
            return []
        changed = {part for stage in self.stages.values() for part in (*stage.train, *["llm"] * stage.merge_lora)}
        bases = ("encoder", "text" if self.model.is_two_towers else "llm")
        return [part for part in bases if part not in changed]

    @property
    def provenance(self) -> dict[str, str]:
        """Dotted key -> who said it: `recipe`, `base: NAME`, `command line (recipe: 20000)` or `default`."""
        return {".".join(key): self._layers.origin(key, value) for key, value in leaves(self.model_dump(mode="json"))}

    @property
    def values(self) -> dict[str, Any]:
        """Each value by its dotted key; the keys are those of `provenance`."""
        return {".".join(key): value for key, value in leaves(self.model_dump(mode="json"))}

    def error(self, key: str, message: str) -> RecipeError:
        """An error about one key, which names the file and the line where it is written."""
        return RecipeError(f"{self._layers.where_is(tuple(key.split('.')))}: {key} {message}")

    @contextmanager
    def placed(self) -> Iterator[None]:
        """A setting that does not fit its part, as it is made, becomes an error that names the file and the line."""
        try:
            yield
        except SettingError as error:
            raise self.error(f"model.{error.key}", error.cause) from error

    def prepared_folder(self, converter: str) -> str:
        """The folder that a `prepare` step fills: its option `out`, or one of the converter's name under `data`."""
        return str(self.prepare[converter].get("out", Path(self.data, converter)))

    def to_yaml(self) -> str:
        """The recipe with everything filled in: what a run keeps beside its results. Loads as the same recipe."""
        values = escape(self.model_dump(mode="json", exclude={"base"}))
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, a folder with recipe.yaml or a packaged name, with `key=value` from the command line.

    RecipeError tells the file, the line, the key and the way out of every mistake, one a line.
    """
    layers = read_layers(name_or_path, overrides)
    if "name" not in layers.values:
        raise RecipeError(f"{layers.where}: name is missing; it also names the folder of the run")
    for key in ("output", "data", "cache", "seed"):  # so that ${data} means the default where the recipe says nothing
        layers.values.setdefault(key, Recipe.model_fields[key].default)
    values = resolve(layers)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(explain(error, values, layers))) from error
    recipe._layers = layers
    return recipe


def missing_files(recipe: Recipe) -> list[str]:
    """What the recipe reads that is not there and that no `prepare` step makes: one sentence each, or for each set."""
    made = [Path(recipe.prepared_folder(converter)).resolve() for converter in recipe.prepare]
    missing: dict[str, list[str]] = {}
    for key, path in data_paths(recipe):
        if "://" in path:  # on the hub, or in an object store
            continue
        resolved = Path(path).resolve()
        will_be_made = any(folder == resolved or folder in resolved.parents for folder in made)
        if not will_be_made and not glob.glob(path, recursive=True):
            name = Path(path).parent.name
            of_a_set = name in packaged_files("data_prep")
            out = "" if Path(path).parent == Path("data", name) else f" --out {shlex.quote(str(Path(path).parent))}"
            way_out = f"; `audiollm prepare {name}{out}` makes it" if of_a_set else ""
            told = str(recipe.error(key, f"is {path}, and there is no such file in {Path.cwd()}{way_out}"))
            missing.setdefault(name if of_a_set else key, []).append(told)
    checkpoint = recipe.model.checkpoint
    if checkpoint and not Path(checkpoint).exists() and is_local(checkpoint):
        missing["checkpoint"] = [str(recipe.error("model.checkpoint", f"is {checkpoint}, and there is no such folder"))]
    more = {
        name: f" ({len(told) - 1} more of its files are asked for)" * (len(told) > 1) for name, told in missing.items()
    }
    return [f"{told[0]}{more[name]}" for name, told in missing.items()]


def prepare_command(recipe: Recipe, converter: str) -> str:
    """The command that makes, into the same folder, what a `prepare` step of the recipe makes."""
    options = {key: value for key, value in recipe.prepare[converter].items() if key != "out"}
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]
    return shlex.join(["audiollm", "prepare", converter, "--out", recipe.prepared_folder(converter), *words])


def require_stage(recipe: Recipe, stage: str | None) -> None:
    """ValueError for a stage that the recipe does not have, with those that it has."""
    if stage is not None and stage not in recipe.stages:
        raise ValueError(f"no stage {stage!r} in {recipe.name}; {nearest(stage, recipe.stages)}")


def require_files(recipe: Recipe) -> None:
    """RecipeError that lists what is missing."""
    missing = missing_files(recipe)
    if missing:
        raise RecipeError("\n".join(missing))


def is_local(checkpoint: str) -> bool:
    """Whether a checkpoint's name can only be a folder: not OWNER/NAME, or below a folder that is there."""
    parts = Path(checkpoint).parts
    return len(parts) != 2 or parts[0] in (".", "..", "~") or Path(parts[0]).is_dir()


def data_paths(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The key and the path of every file of rows that the recipe names."""
    if recipe.model.reader and recipe.model.reader.tokenizer:
        yield f"{recipe.model.reader_key}.tokenizer.train_on", recipe.model.reader.tokenizer.train_on
    for name, stage in recipe.stages.items():
        for split, sources in (("train", stage.data.train), ("validation", stage.data.validation)):
            for index, source in enumerate(sources):
                yield f"stages.{name}.data.{split}.{index}.path", source.path
    for index, evaluation in enumerate(recipe.evaluate):
        yield f"evaluate.{index}.path", evaluation.path
    for index, check in enumerate(recipe.text_check):
        yield f"text_check.{index}.path", check.path


def training_paths(recipe: Recipe) -> list[str]:
    """The files of rows that the stages train on, each once."""
    paths = (source.path for stage in recipe.stages.values() for source in stage.data.train)
    return list(dict.fromkeys(paths))


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, from which editors complete and check it as it is typed."""
    from audiollm.models.connectors import CONNECTORS

    schema = Recipe.model_json_schema()
    stage = schema["$defs"]["StageSettings"]["properties"]
    stage["trainer"] |= {"properties": {key: {} for key in trainer_types()}, "additionalProperties": False}
    connectors = []
    for name, connector in sorted(CONNECTORS.items()):
        own = connector.Settings.model_json_schema()
        connectors.append({**own, "properties": {"name": {"const": name}, **own["properties"]}})
    connector = schema["$defs"]["ModelSettings"]["properties"]["connector"]
    connector["anyOf"] = [*connectors, {"type": "null"}]
    schema["required"] = []  # a recipe with a base may leave out anything
    return schema


def leaves(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is not itself a block, with its key; a list of plain values is one value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*key, str(name)))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*key, str(index)))
    else:
        yield key, value


def explain(error: ValidationError, values: Any, layers: Layers) -> Iterator[str]:
    """Pydantic's findings as sentences: where it is written, which key, what is wrong."""
    for finding in error.errors():
        key = written_key(finding["loc"], values)
        dotted, message = ".".join(key), finding["msg"].removeprefix("Value error, ")
        if finding["type"] in ("missing", "too_short"):
            message = "is missing" if finding["type"] == "missing" else "is empty"
        elif finding["type"] not in ("refused", "value_error"):
            message = f"{message[:1].lower()}{message[1:]}, and not {finding['input']!r}"
        separator = " " if finding["type"] in ("missing", "too_short", "refused") else ": "
        yield f"{layers.where_is(key)}: {dotted}{separator if dotted else ''}{message}"


def written_key(loc: tuple[int | str, ...], values: Any) -> tuple[str, ...]:
    """Pydantic's location without its own marks (which member of a union was tried): a key as a user writes it."""
    key: list[str] = []
    for position, name in enumerate(loc):
        is_written = isinstance(values, dict) and name in values
        is_item = isinstance(values, list) and isinstance(name, int) and name < len(values)
        if is_written or is_item:
            values = values[name]
            key.append(str(name))
        elif position == len(loc) - 1 and isinstance(values, dict) and name != "[key]":
            key.append(str(name))  # a key that is missing
    return tuple(key)


def escape(value: Any) -> Any:
    """Text with a literal `${`, written so that loading does not take it for an interpolation."""
    if isinstance(value, dict):
        return {key: escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
