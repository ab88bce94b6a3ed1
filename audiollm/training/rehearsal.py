"""What a recipe would do, without training: what trains, memory, steps and a sample; then who said which setting.

No weights are loaded: the model is built on torch's meta device from configs alone.
"""

import json
import math
import sys
from collections.abc import Collection, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from transformers import AutoConfig, PreTrainedTokenizerBase

from audiollm.data.dataset import Limits, Recordings
from audiollm.models.checkpoint import MANIFEST, attach_saved_adapters, is_small_checkpoint
from audiollm.models.configuration import AudioLLMConfig, AudioTextConfig
from audiollm.models.connectors import check_connector
from audiollm.models.freezing import select_trainable
from audiollm.models.locate import resolve_checkpoint
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.native import loading as native_loading
from audiollm.models.native.loading import is_native
from audiollm.models.native.processing import NativeProcessor
from audiollm.models.parts import encoder_on_paper, load_tokenizer
from audiollm.models.processing import AudioLLMProcessor
from audiollm.models.towers_parts import pooling_of, text_config_of
from audiollm.models.towers_processing import AudioTextProcessor
from audiollm.models.two_towers import AudioTextModel
from audiollm.recipe import ModelSettings, Recipe, StageSettings, missing_files, prepare_command, require_files
from audiollm.training import memory
from audiollm.training.memory import GIB, MIB, Load
from audiollm.training.objectives import Objective, build_objective
from audiollm.training.requirements import (
    Sharding,
    refuse_sharded_muon,
    refuse_sharded_towers,
    require_libraries,
    require_parts,
)
from audiollm.training.stage_data import StageData
from audiollm.training.stages import (
    RunFolder,
    check_licences,
    positions_of,
    prepare_lora,
    recipe_tokenizer,
    recordings_of,
    refuse_frames,
    require_kind,
    teacher_text_of,
    with_prompts,
)
from audiollm.training.trainer import train_sampler


def dry_run(recipe: Recipe, *, deepspeed: str | None = None, fsdp: bool = False) -> None:
    """Print what training this recipe would do, and what it says; ValueError for what would stop it."""
    sharding = Sharding(deepspeed, fsdp)
    refuse_sharded_muon(recipe, list(recipe.stages), sharding)
    refuse_sharded_towers(recipe, sharding)
    console = Console(width=None if sys.stdout.isatty() else 160)
    rehearse(console, recipe, sharding)
    if wanted := [key for key in ("refuse_overlap", "refuse_duplicates") if getattr(recipe, key)]:
        console.print(f"recordings are not compared here, but before training ({' and '.join(wanted)})")
    console.print(settings_table(recipe))
    require_files(recipe)


def rehearse(console: Console, recipe: Recipe, sharding: Sharding) -> None:
    """Print what each stage would do; of rows that are not there, nothing."""
    try:
        require_libraries(recipe)
    except (ImportError, ValueError) as error:
        console.print(f"training here: {error}")
    unmade = [c for c in recipe.prepare if not Path(recipe.prepared_folder(c)).is_dir()]
    if unmade:
        for name in unmade:
            told = f"{name}: not made yet; `{prepare_command(recipe, name)}` makes it, and then a sample is shown here"
            console.print(Text(told), soft_wrap=True)
        return
    missing = missing_files(recipe)
    with recipe.placed():
        model, processor = on_paper(recipe)
    done = RunFolder.open(recipe.output).stages
    if sharding.option:
        console.print(f"memory is that of a device that holds everything: what {sharding.option} spreads is in it")
    bases = [part for part in recipe.in_bfloat16 if part in (model.config.bases or {})]
    for name, stage in recipe.stages.items():
        if name in done:
            console.print(f"stage {name} is done in {recipe.output} and would be skipped")
        data = None if missing else StageData.load(recipe, stage)
        if data is not None and name not in done:
            check_licences(recipe, name, data)
        describe_stage(console, name, stage, model, data, processor, bases)


def settings_table(recipe: Recipe) -> Table:
    """Every setting that somebody said, its value, and who that was; how many others there are."""
    said = {key: origin for key, origin in recipe.provenance.items() if origin != "default"}
    others = f"{len(recipe.values) - len(said)} more are at their defaults, which `audiollm schema` tells"
    columns = (Column("setting", no_wrap=True), "value", "from")
    table = Table(*columns, title=f"settings of recipe {recipe.name}", caption=others)
    for key, origin in said.items():
        table.add_row(*(Text(text, overflow="fold") for text in (key, str(recipe.values[key]), origin)))
    return table


def on_paper(recipe: Recipe) -> tuple[AudioLLMForConditionalGeneration, AudioLLMProcessor]:
    """The model without weights, and its processor."""
    folder = None
    if recipe.model.checkpoint is not None:
        folder = resolve_checkpoint(recipe.model.checkpoint, revision=recipe.model.revision)
        require_kind(recipe, folder)
        if recipe.model.is_two_towers:
            return towers_on_paper(recipe, folder)
        if is_native(folder):
            return native_on_paper(folder, recipe)
        config = AudioLLMConfig.from_pretrained(folder)
        config.bases = bases_that_lie_elsewhere(config, folder)
        processor = with_prompts(AudioLLMProcessor.from_pretrained(folder), recipe.model)
        if recipe.model.connector is not None:
            config.connector_config = dict(recipe.model.connector)
            processor.connector_config = config.connector_config
    elif recipe.model.is_two_towers:
        return towers_on_paper(recipe)
    else:
        config, processor = parts_on_paper(recipe)
    with torch.device("meta"):
        model = AudioLLMForConditionalGeneration(config)
    model.tie_weights()
    model.lora_config = model.encoder_lora_config = None
    if folder:
        attach_saved_adapters(model, folder)
    return model, processor


def bases_that_lie_elsewhere(config: AudioLLMConfig | AudioTextConfig, folder: Path) -> dict[str, Any]:
    """The public bases of a checkpoint whose tensors it does not hold itself."""
    manifest = json.loads((folder / MANIFEST).read_text()) if is_small_checkpoint(folder) else {}
    stored = manifest.get("stored_parts", ["encoder", "llm"])
    return {part: base for part, base in (config.bases or {}).items() if part not in stored}


def towers_on_paper(recipe: Recipe, folder: Path | None = None) -> tuple[Any, Any]:
    """Two towers without weights, from a checkpoint or from parts, and their processor."""
    block = recipe.model
    if folder is not None:
        config = AudioTextConfig.from_pretrained(folder)
        config.bases = bases_that_lie_elsewhere(config, folder)
        processor = AudioTextProcessor.from_pretrained(folder)
    else:
        require_parts(recipe)
        assert block.text is not None
        text = block.text.model_dump()
        tokenizer = recipe_tokenizer(recipe) or load_tokenizer(text)
        text_config = text_config_of(text, tokenizer)
        config = AudioTextConfig(
            audio_config=encoder_on_paper(block.encoder_spec),
            text_config=text_config,
            pooling=pooling_of(text, text_config),
            projection_width=block.shared_space.width,
            bases=bases_on_paper(block),
        )
        processor = AudioTextProcessor.from_parts(tokenizer, config)
    with torch.device("meta"):
        return AudioTextModel(config), processor


def native_on_paper(folder: Path, recipe: Recipe) -> tuple[Any, Any]:
    """A model that transformers has itself, without weights, and its processor."""
    model: Any
    processor: Any
    model, processor = native_loading.on_paper(folder)
    attach_saved_adapters(model, folder)
    model.config.quantize = recipe.model.quantize or model.config.quantize
    return model, with_prompts(processor, recipe.model)


def parts_on_paper(recipe: Recipe) -> tuple[AudioLLMConfig, AudioLLMProcessor]:
    """Config and processor of the parts that the recipe names."""
    require_parts(recipe)
    block = recipe.model
    assert block.encoder is not None and block.llm is not None and block.connector is not None
    tokenizer = recipe_tokenizer(recipe) or load_tokenizer(block.llm.model_dump())
    config = AudioLLMConfig(
        audio_config=encoder_on_paper(block.encoder_spec),
        text_config=sizes(block.llm, vocabulary(tokenizer)),
        connector_config=check_connector(block.connector),
        bases=bases_on_paper(block),
        quantize=block.llm.quantize,
    )
    processor = AudioLLMProcessor.from_parts(
        tokenizer,
        config.audio_config.to_dict(),
        config.connector_config,
        config.sampling_rate,
        block.chat_template_kwargs,
        block.system_prompt,
    )
    config.audio_token_id = processor.audio_token_id
    return config, processor


def bases_on_paper(block: ModelSettings) -> dict[str, Any]:
    """The parts that are public bases, without what identifies them."""
    reads = "text" if block.is_two_towers else "llm"
    from_public = {
        "encoder": all(one.checkpoint for one in block.encoders),
        reads: block.reader and block.reader.checkpoint,
    }
    return {part: {} for part, is_public in from_public.items() if is_public}


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a language model from scratch takes from its tokenizer."""
    return {"vocab_size": len(tokenizer)}


def sizes(block: Any, more: Mapping[str, Any]) -> Any:
    """The transformers config of a part: of its checkpoint, or from the recipe."""
    if block.checkpoint is not None:
        return AutoConfig.from_pretrained(block.checkpoint, revision=block.revision)
    return AutoConfig.for_model(**{**more, **block.config})


def describe_stage(
    console: Console,
    name: str,
    stage: StageSettings,
    model: AudioLLMForConditionalGeneration,
    data: StageData | None,
    processor: AudioLLMProcessor,
    in_bfloat16: Collection[str],
) -> None:
    """What trains, memory, and where the rows are there: steps and a sample with its supervised part marked."""
    prepare_lora(model, stage)
    select_trainable(model, list(stage.train))
    objectives = objectives_on_paper(stage, model, processor)
    with_text = any(objective.needs_text for objective in objectives.values())
    recordings = None
    if data is not None:
        settings = stage.data
        recordings = recordings_of(model, stage)(
            data.train,
            processor,
            questions_per_clip=settings.questions_per_clip,
            supervise=settings.supervise,
            with_text=with_text,
            groups=data.mixture,
            limits=Limits(settings.max_tokens, positions_of(model), settings.too_long),
            teacher_text=teacher_text_of(objectives),
        )
    if isinstance(processor, NativeProcessor):
        refuse_frames(stage, f"stages.{name}")
    load = None
    if not memory.unknown(model):
        taught = teacher_text_of(objectives) is not None
        load = memory.heaviest(recordings, model) if recordings else memory.assumed(model, processor, with_text, taught)
    describe_memory(console, name, stage, model, objectives, load, in_bfloat16, "longest" if recordings else "assumed")
    if data is None or recordings is None:
        return
    if stage.data.measured:
        console.print(f"{len(recordings.measure()):,} rows are too long and would be left out")
    steps = planned_steps(stage, recordings, data.sources(recordings))
    console.print(f"{recordings.num_rows:,} rows over {len(recordings):,} recordings; {steps:,} steps")
    if with_text:
        console.print(sample(data.train[0], recordings, processor))


def objectives_on_paper(stage: StageSettings, model: Any, processor: Any) -> dict[str, Objective]:
    """The stage's objectives by name, without weights."""
    with torch.device("meta"):
        return {
            name: build_objective(name, block.model_dump(), model=model, processor=processor)
            for name, block in stage.objectives.items()
        }


def describe_memory(
    console: Console,
    name: str,
    stage: StageSettings,
    model: AudioLLMForConditionalGeneration,
    objectives: Mapping[str, Objective],
    load: Load | None,
    in_bfloat16: Collection[str],
    what: str,
) -> None:
    """What is held part by part, what a micro-batch adds, and which cards have room for how many recordings.

    Without `load` it is not known what a micro-batch adds.
    """
    optim = str(stage.trainer.get("optim", "adamw_torch"))
    held = memory.held(model, torch.nn.ModuleList(objectives.values()), optim, in_bfloat16, model.config.quantize)
    state = sum(one.total for one in held.values())
    batch = int(stage.trainer.get("per_device_train_batch_size", 8))
    activations = None
    if load is not None:
        if stage.data.batch_tokens:  # as many of the heaviest as it lets in
            batch = max(stage.data.batch_tokens // max(load.tokens + load.read, 1), 1)
        activations = memory.activations(model, stage.trainer, load, in_bfloat16, model.config.quantize)
    added = activations(batch) if activations else 0.0
    unit, size_of = ("GiB", GIB) if state + added >= GIB else ("MiB", MIB)
    console.print(held_table(f"stage {name} (memory in {unit})", held, size_of))
    if load is None or activations is None:
        kind = memory.unknown(model)
        console.print(
            f"memory of a device: {state / size_of:.2f} {unit} held; what a micro-batch adds is not known for {kind}"
        )
        return
    length = f"{load.tokens:,} tokens" if load.tokens else f"{load.seconds:.1f} s"
    console.print(
        f"memory of a device: {state / size_of:.2f} {unit} held + {added / size_of:.2f} for a micro-batch of {batch} = "
        f"{(state + added) / size_of:.2f} {unit} ({what} recording: {length})"
    )
    for card, room in memory.CARDS_GIB.items():
        most = memory.largest(room, state, activations)
        fits = "fits" if most >= batch else "does not fit"
        bound = f"{most:,} at most" if most < memory.MOST else f"{most:,} or more"
        largest = f"per_device_train_batch_size is {bound}" if most else "not even one recording does"
        console.print(f"{fits} a card of {card} ({room:g} GiB for tensors); {largest}")


def held_table(title: str, held: Mapping[str, memory.Held], size_of: float) -> Table:
    """What is held, part by part."""
    right = [Column(title, justify="right") for title in ("parameters", "trainable", "weights", "gradient", "state")]
    table = Table(
        "part", *right[:2], "held in", *right[2:], title=title, title_justify="left", box=None, pad_edge=False,
        padding=(0, 2, 0, 0),
    )  # fmt: skip
    for part, one in held.items():
        sizes = (f"{size / size_of:.2f}" for size in (one.weights, one.gradients, one.optimizer))
        table.add_row(part, f"{one.parameters:,}", f"{one.trainable:,}", ", ".join(one.types), *sizes)
    return table


def planned_steps(stage: StageSettings, recordings: Recordings, sources: list[tuple[int, float]]) -> int:
    """Optimizer steps on one device."""
    if stage.trainer.get("max_steps", -1) > 0:
        return int(stage.trainer["max_steps"])
    size = stage.trainer.get("per_device_train_batch_size", 8)
    accumulation = stage.trainer.get("gradient_accumulation_steps", 1)
    sampler = train_sampler(
        recordings, sources, size, stage.data.batch_tokens, stage.data.num_samples, accumulation=accumulation
    )
    steps = math.ceil(len(sampler) / accumulation)
    return math.ceil(steps * stage.trainer.get("num_train_epochs", 3))


def sample(row: Any, recordings: Recordings, processor: AudioLLMProcessor) -> Text:
    """One row as the model reads it; what it must learn to write is marked, and runs of audio are counted."""
    lengths = [len(clip.load(processor.sampling_rate)) for clip in row.clips]
    rendered = recordings.render(row, lengths)[0]
    pieces = processor.renderer.pieces(rendered.input_ids, rendered.supervised)
    text = Text("sample: ")
    for supervised, together in groupby(pieces, lambda piece: piece.supervised):
        text.append("«" if supervised else "")
        for piece in together:
            if piece.kind == "audio":
                text.append(f"[{piece.tokens} audio tokens]", style="cyan")
            else:
                text.append(piece.text, style="bold black on green" if supervised else "")
        text.append("»" if supervised else "")
    return text.append("\n        («supervised»)", style="dim")
