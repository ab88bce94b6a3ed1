"""Runs the stages of a recipe in order, each from the one before; finished ones are skipped, interrupted ones go on.

runs/NAME/STAGE/                        the stage's checkpoint, written when the stage is done
runs/NAME/unfinished/STAGE/             its resume points, removed when it is done
runs/NAME/logs/STAGE/                   TensorBoard
runs/NAME/quarantine.jsonl              rows that could not be used, each with its cause
runs/NAME/run.json                      which stages are done, with their settings, seconds and learning curves
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from audiollm.conversation import Row
from audiollm.data.collate import Collator
from audiollm.data.dataset import Limits, Recordings, SoundCache
from audiollm.data.features import FeatureStore
from audiollm.data.licences import breach, doubts
from audiollm.data.mixture import Mixture
from audiollm.data.pairs import Pairs
from audiollm.data.quarantine import Quarantine, bad_row
from audiollm.data.sources import fingerprint, of_tasks
from audiollm.files import write_whole
from audiollm.models.attention import BLOCKS
from audiollm.models.checkpoint import copy_checkpoint, damaged_checkpoint, save_checkpoint
from audiollm.models.configuration import AudioTextConfig
from audiollm.models.freezing import (
    CONFIGS,
    add_lora,
    has_lora,
    merge_lora,
    require_lora,
    select_trainable,
    set_lora_scale,
)
from audiollm.models.locate import resolve_checkpoint, type_of
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.native.loading import is_native, load_native
from audiollm.models.native.processing import NativeProcessor
from audiollm.models.parts import Built, build, match_connector_scale, renew_connector
from audiollm.models.processing import AudioLLMProcessor
from audiollm.models.rendering import check_template_kwargs
from audiollm.models.tokenizer import train_tokenizer
from audiollm.models.towers_parts import build_towers, load_towers
from audiollm.models.towers_processing import AudioTextProcessor
from audiollm.models.two_towers import AudioTextModel
from audiollm.models.varlen import leave_cudnn_out
from audiollm.recipe import ModelSettings, Recipe, StageSettings, require_files, require_stage
from audiollm.training.augmentation import Augmenter, augmenter_of
from audiollm.training.bad_rows import BadRows, TooManyBadRows, sentence, too_many
from audiollm.training.bad_steps import BadSteps
from audiollm.training.features import fill, open_store
from audiollm.training.kernels import apply_liger, prepare_attention
from audiollm.training.objectives import OBJECTIVES, Objective, build_objective, objectives_of
from audiollm.training.objectives.towers import Towers
from audiollm.training.progress import StageProgress
from audiollm.training.ranks import is_main, written_to
from audiollm.training.requirements import (
    Sharding,
    refuse_repeated,
    refuse_sharded_bits,
    refuse_sharded_muon,
    refuse_sharded_towers,
    require_libraries,
    require_parts,
)
from audiollm.training.resume_points import PREFIX, STATE, MoreResumePoints, newest_whole
from audiollm.training.signals import StopOnSignal, Stopped
from audiollm.training.stage_data import StageData, by_task, origin, read_rows
from audiollm.training.stage_model import StageModel
from audiollm.training.text_check import TextCheck, text_figures, text_rows
from audiollm.training.trainer import StageTrainer

LORA = {"lora": "LoRA", "encoder_lora": "the encoder's LoRA"}
Sampler = Callable[[Any, Any, list[Row]], None]
"""Shows some answers of a model: (model, processor, rows); handed in by the command line."""


@dataclass
class RunFolder:
    """The folder of a run: where its stages are, and what is known about those that are done."""

    path: Path
    stages: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """The folder as it stands; a new one is empty."""
        file = Path(path) / "run.json"
        return cls(Path(path), json.loads(file.read_text())["stages"] if file.is_file() else {})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else trains in this folder meanwhile; ValueError if somebody does. Ranks of one run share it."""
        if not is_main():
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"output={self.path} cannot be made ({error.strerror}); name another folder") from None
        try:
            with FileLock(self.path / ".lock", blocking=False):
                yield
        except Timeout:
            raise ValueError(
                f"another command is training in {self.path}; wait for it, or use another `output=`"
            ) from None

    def work(self, stage: str) -> Path:
        """Where the resume points of a stage lie while it is not done."""
        return self.path / "unfinished" / stage

    def quarantine(self, stage: str) -> Quarantine:
        """Where the rows are listed that a stage could not use."""
        return Quarantine(self.path / "quarantine.jsonl", stage, writes=is_main())

    def is_begun(self, stage: str) -> bool:
        """Whether a stage that is not done was interrupted."""
        return (self.work(stage) / "settings.json").is_file()

    def begin(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Note with which settings a stage was begun, and clear away what was half written when it was interrupted."""
        self.work(stage).mkdir(parents=True, exist_ok=True)
        for half_written in self.work(stage).glob("*.partial"):
            shutil.rmtree(half_written, ignore_errors=True)
        (self.work(stage) / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")

    def finish(self, stage: str, record: Mapping[str, Any], *, later: Collection[str] = ()) -> None:
        """Note a stage as done, and the later ones as not done: they stood on what it was before."""
        self.stages = {name: kept for name, kept in self.stages.items() if name not in later}
        self.stages[stage] = dict(record)
        write_whole(self.path / "run.json", json.dumps({"stages": self.stages}, indent=1) + "\n")
        shutil.rmtree(self.path / "unfinished", ignore_errors=True)

    def is_finished(self, stage: str, settings: Mapping[str, Any]) -> bool:
        """Whether a stage is done; ValueError if it was done or begun with other settings than are asked for now."""
        begun = self.work(stage) / "settings.json"
        if stage in self.stages and (self.path / stage).is_dir():
            before = self.stages[stage]["settings"]
            of_ranks = () if before.get("ranks", 1) == settings["ranks"] else ("a step",)  # done elsewhere, it is done
            refuse_changes(f"stage {stage} was done", before, settings, self.path / stage, but=("engine", *of_ranks))
            if damage := damaged_checkpoint(self.path / stage):
                raise ValueError(
                    f"stage {stage} is done, but {self.path / stage} is damaged: {damage}; "
                    "bring the files back, or delete that folder to train it again"
                )
            return True
        if stage in self.stages and is_main():
            print(f"stage {stage}: it was done, and its folder is gone; it is trained again, and all after it")
        if begun.is_file() and any(begun.parent.glob(f"{PREFIX}*")):
            before = json.loads(begun.read_text())
            refuse_changes(f"stage {stage} was begun", before, settings, begun.parent)
        return False


CHANGES_NOTHING = frozenset(
    ("ranks", "stage.max_bad_steps", "stage.data.max_bad_fraction", "stage.trainer.save_total_limit",
     "stage.trainer.logging_steps", "stage.trainer.logging_first_step", "stage.trainer.logging_strategy",
     "stage.trainer.report_to", "stage.trainer.dataloader_num_workers", "stage.trainer.dataloader_prefetch_factor",
     "stage.trainer.dataloader_pin_memory")
)  # fmt: skip
"""Settings of a stage that change what is told and how fast, and not what is learned."""


def refuse_changes(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any], folder: Path, *, but: Collection[str] = ()
) -> None:
    """ValueError that names the first of the settings that are not what they were, `but` some."""
    old, new = flatten(before), flatten(now)
    keys = (old.keys() | new.keys()) - CHANGES_NOTHING - set(but)
    changed = [key for key in keys if old.get(key) != new.get(key)]
    changed.sort(key=lambda key: (key.startswith("rows."), key))  # another path also has other rows
    if changed:
        key = changed[0]
        written = key.replace("stage.", f"stages.{folder.name}.", 1) if key.startswith("stage.") else key
        difference = f"with {written}={old.get(key)}, and now it is {new.get(key)}"
        if key.startswith("rows."):
            difference = f"before {key.removeprefix('rows.')} was changed"
        if key == "a step":
            difference += " (ranks x per_device_train_batch_size x gradient_accumulation_steps, which must stay)"
        more = f" (and {', '.join(changed[1:4])} differ{' ...' if len(changed) > 4 else ''})" if changed[1:] else ""
        raise ValueError(f"{what} {difference}{more}; use another `output=`, or delete {folder} to train it again")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in flatten(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def run_recipe(
    recipe: Recipe,
    *,
    stage: str | None = None,
    deepspeed: str | None = None,
    fsdp: bool = False,
    sample: Sampler | None = None,
) -> Path:
    """Train the stages that are not done (or one of them, by name) and return the last checkpoint's folder.

    Under a launcher every rank calls this. `deepspeed`: a file of DeepSpeed settings; `fsdp`: shard with FSDP2.
    ValueError, before any model is loaded, for a missing file, an empty mixture, a stage that trains nothing, or
    recordings that come twice where the recipe refuses them.
    """
    started = time.perf_counter()
    names = list(recipe.stages)
    require_stage(recipe, stage)
    require_files(recipe)
    require_libraries(recipe)
    read_rows.cache_clear()  # a file may have been made anew since
    rows_fingerprint.cache_clear()
    run = RunFolder.open(recipe.output)
    others = [name for name in run.stages if name not in names]
    if others:
        raise ValueError(f"{run.path} holds the stage {others[0]} of another recipe; use another `output=`")
    wanted = names if stage is None else [stage]
    sharding = Sharding(deepspeed, fsdp)
    refuse_sharded_muon(recipe, wanted, sharding)
    refuse_sharded_towers(recipe, sharding)
    todo = stages_to_do(recipe, run, wanted, sharding)
    for entry in recipe.evaluate:
        if entry.tasks is not None:
            of_tasks(read_rows(entry.path, None, False)[0], entry.tasks, entry.path)
    text_rows(recipe)
    data = {name: StageData.load(recipe, recipe.stages[name]) for name in todo}
    for name in todo:
        check_objectives(recipe, name, data[name].train)
        check_licences(recipe, name, data[name])
    refuse_repeated(recipe)
    with run.alone():
        if is_main():
            (run.path / "recipe.yaml").write_text(recipe.to_yaml())
        for name in todo:
            refuse_bad_rows(run, name, data[name], recipe.stages[name].data.max_bad_fraction)
        built: Built | None = None
        sounds = SoundCache(recipe.audio_cache_gib * 2**30)
        for name in wanted:
            if name not in todo:
                print(f"stage {name}: done already, skipped; another `output=` trains it anew")
                continue
            before = names[: names.index(name)]
            if built is None:
                with recipe.placed():
                    built = start_model(recipe, run, before)
                refuse_sharded_bits(built.model.config.quantize, sharding)
                attend(built, recipe)
            built = train_stage(recipe, name, built, data[name], run, sounds, started, sharding, sample=sample)
            started = time.perf_counter()
    return run.path / wanted[-1]


def stages_to_do(recipe: Recipe, run: RunFolder, wanted: list[str], sharding: Sharding) -> list[str]:
    """The first stage that is not done, and all after it: they stand on it."""
    for index, name in enumerate(wanted):
        if not run.is_finished(name, stage_settings(recipe, name, sharding)):
            return wanted[index:]
    return []


def stage_settings(recipe: Recipe, name: str, sharding: Sharding) -> dict[str, Any]:
    """Everything that a stage's result depends on, as plain JSON; and on what it trains.

    What a step hears may be shared by other ranks and micro-batches than before: the result is the same.
    """
    whole = recipe.model_dump(mode="json")
    trainer = whole["stages"][name]["trainer"]
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    size, times = trainer.pop("per_device_train_batch_size", 8), trainer.pop("gradient_accumulation_steps", 1)
    budget = recipe.stages[name].data.batch_tokens
    a_step = f"{ranks} x {times} micro-batches of tokens" if budget else f"{ranks * size * times} recordings"
    engine = f"DeepSpeed {Path(sharding.deepspeed).stem} on {ranks} ranks" if sharding.deepspeed else "any other"
    data = recipe.stages[name].data
    paths = [origin(source) for source in [*data.train, *data.validation]]
    if recipe.model.reader is not None and recipe.model.reader.tokenizer is not None:
        paths.append(recipe.model.reader.tokenizer.train_on)
    rows = {str(path): rows_fingerprint(path) for path in paths}
    stage = whole["stages"][name]
    return {
        "seed": whole["seed"], "model": whole["model"], "stage": stage, "rows": rows,
        "a step": a_step, "engine": engine, "ranks": ranks,
    }  # fmt: skip


rows_fingerprint = lru_cache(fingerprint)


def start_model(recipe: Recipe, run: RunFolder, before: list[str]) -> Built:
    """The model that a stage starts from: the stage before it, a given checkpoint, or new parts."""
    if before and before[-1] not in run.stages:
        missing = ", ".join(name for name in before if name not in run.stages)
        raise ValueError(f"stage {missing} comes first and is not done in {run.path}; run it, or drop --stage")
    if before:
        return load_built(run.path / before[-1], recipe.in_bfloat16, quantize=recipe.model.quantize)
    if recipe.model.checkpoint:
        base = {"checkpoint": recipe.model.checkpoint, "revision": recipe.model.revision}
        folder = resolve_checkpoint(recipe.model.checkpoint, revision=recipe.model.revision)
        require_kind(recipe, folder)
        built = load_built(folder, recipe.in_bfloat16, quantize=recipe.model.quantize, base=base)
        if recipe.model.connector is not None:
            if isinstance(built.processor, NativeProcessor):
                raise recipe.error("model.connector", "is for checkpoints of this package; this one keeps its own")
            set_seed(recipe.seed)
            renew_connector(built, recipe.model.connector)
            print(f"connector: a new {recipe.model.connector['name']} in place of the checkpoint's")
        return built if recipe.model.is_two_towers else Built(built.model, with_prompts(built.processor, recipe.model))
    return build_parts(recipe)


def require_kind(recipe: Recipe, folder: Path) -> None:
    """RecipeError for a checkpoint of the other kind of model."""
    asked, found = recipe.model.is_two_towers, type_of(folder) == AudioTextConfig.model_type
    if asked != found:
        way_out = "holds two towers: say `kind: two_towers`" if found else "holds an audio language model: leave it out"
        raise recipe.error("model.kind", f"is {recipe.model.kind}, and {recipe.model.checkpoint} {way_out}")


def load_built(
    folder: str | Path,
    in_bfloat16: Collection[str] = (),
    *,
    quantize: str | None = None,
    base: Mapping[str, Any] | None = None,
) -> Built:
    """A checkpoint's model and processor, in the type in which it was saved, but these bases in bfloat16.

    `base`: what a model that transformers has itself is called, where it does not lie in the folder by its name.
    """
    if is_native(folder):
        return load_native(folder, base=base, quantize=quantize, in_bfloat16=in_bfloat16)
    if type_of(Path(folder)) == AudioTextConfig.model_type:
        towers: Any = load_towers(folder, in_bfloat16=in_bfloat16)
        reads: Any = AudioTextProcessor.from_pretrained(str(folder))
        return Built(towers, reads)
    model = AudioLLMForConditionalGeneration.from_pretrained(str(folder), quantize=quantize, in_bfloat16=in_bfloat16)
    return Built(model, AudioLLMProcessor.from_pretrained(str(folder)))


def attend(built: Built, recipe: Recipe) -> None:
    """The attention that the stages go by; that of two towers is their own."""
    model = built.model
    if isinstance(model, AudioTextModel):
        return
    prepare_attention(model.model.language_model, recipe.model.attn_implementation, shares_audio=model.shares_audio)


def with_prompts(processor: AudioLLMProcessor, block: ModelSettings) -> AudioLLMProcessor:
    """A checkpoint's processor with what the recipe says about prompts; what it leaves unsaid stays."""
    check_template_kwargs(str(processor.chat_template or ""), block.chat_template_kwargs)
    processor.chat_template_kwargs |= block.chat_template_kwargs
    processor.system_prompt = block.system_prompt or processor.system_prompt
    return processor


def build_parts(recipe: Recipe) -> Built:
    """New parts as the recipe's `model:` block says, the same for the same seed."""
    set_seed(recipe.seed)
    require_parts(recipe)
    block = recipe.model
    if block.text is not None:
        return build_towers(
            encoder=block.encoder_spec,
            text=block.text.model_dump(exclude_none=True),
            tokenizer=recipe_tokenizer(recipe),
            **block.shared_space.model_dump(),
            in_bfloat16=recipe.in_bfloat16,
        )
    assert block.encoder is not None and block.llm is not None and block.connector is not None
    return build(
        encoder=block.encoder_spec,
        connector=dict(block.connector),
        llm=block.llm.model_dump(exclude_none=True),
        tokenizer=recipe_tokenizer(recipe),
        chat_template_kwargs=block.chat_template_kwargs,
        system_prompt=block.system_prompt,
        in_bfloat16=recipe.in_bfloat16,
    )


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    """The tokenizer that the recipe trains, if it does."""
    settings = recipe.model.reader.tokenizer if recipe.model.reader else None
    if settings is None:
        return None
    rows, _ = read_rows(settings.train_on, None, False)
    return train_tokenizer((message.text for row in rows for message in row.messages), settings.vocab_size)


def refuse_bad_rows(run: RunFolder, name: str, data: StageData, max_fraction: float) -> None:
    """List the rows that were refused when a stage's rows were read; TooManyBadRows if they are too many."""
    quarantine = run.quarantine(name)
    if not run.is_begun(name):
        quarantine.clear()
    quarantine.add(bad_row("reading", error) for error in data.problems.errors)
    if data.problems.count > max_fraction * data.num_read:
        raise too_many(quarantine, data.problems.count, data.num_read, "rows", max_fraction)


def train_stage(
    recipe: Recipe,
    name: str,
    built: Built,
    data: StageData,
    run: RunFolder,
    sounds: SoundCache,
    started: float,
    sharding: Sharding,
    *,
    sample: Sampler | None = None,
) -> Built:
    """Train one stage from where its last resume point stands, write its checkpoint, and return what was trained.

    `started`: when the work for it began, by `time.perf_counter`; for the first stage that is the reading of the rows.
    """
    stage = recipe.stages[name]
    set_seed(recipe.seed)
    if isinstance(built.processor, NativeProcessor):
        refuse_frames(stage, f"stages.{name}")
    try:
        trainable = prepare_model(built, stage)
    except ValueError as error:
        raise recipe.error(f"stages.{name}", f"cannot begin: {error}") from error
    objectives = build_objectives(stage, built)
    work = run.work(name)
    interrupted = run.is_begun(name)
    if is_main():
        run.begin(name, stage_settings(recipe, name, sharding))
    encoder: Any = built.model.encoder
    store = open_store(recipe, encoder) if stage.data.cache_features else None
    trainer = build_trainer(recipe, name, built, objectives, data, run, sounds, sharding, store)
    describe(name, trainable, trainer)
    if store is not None:
        fill(store, encoder, [trainer.recordings, *trainer.validation.values()], trainer.accelerator)
    run_trainer(trainer, name, work, started, interrupted)
    built.model.trained_parts = trainer.trained
    built.model.eval()
    finish_stage(recipe, name, built, trainer, data, run, sharding)
    if trainer.is_sharded:  # nobody takes a model out of DeepSpeed's hands, or FSDP2's
        unset_hf_deepspeed_config()
        built = load_built(run.path / name, recipe.in_bfloat16, quantize=recipe.model.quantize)
        attend(built, recipe)
    if is_main() and sample is not None and data.validation and "language_modeling" in objectives:
        sample(built.model, built.processor, data.validation)
    return built


def run_trainer(trainer: StageTrainer, name: str, work: Path, started: float, interrupted: bool) -> None:
    """Train from the newest resume point to the end.

    Stopped where a signal asked for it; ValueError where no recording could be used.
    """
    last = newest_whole(work)
    if interrupted:
        where = f"goes on after step {last.rpartition('-')[2]}" if last else "starts again: it had no resume point yet"
        print(f"stage {name} was interrupted and {where} (resume points: every {trainer.saves_every:g} steps)")
    trainer.started = started - seconds_before(last)
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=last)
    except TooManyBadRows:
        if not trainer.items and last is None:  # with the recordings mended, the stage begins anew
            shutil.rmtree(work)
        raise
    if stop.asked and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped(f"after step {trainer.state.global_step} of stage {name}, which is saved", stop.asked)
    if last is None and not trainer.items:
        shutil.rmtree(work)
        found = trainer.bad_rows.quarantine
        first = "".join(f"; the first: {sentence(row)}" for row in found.rows[:1])
        raise ValueError(f"stage {name}: no recording could be used, so nothing was learned{first}")


def finish_stage(
    recipe: Recipe,
    name: str,
    built: Built,
    trainer: StageTrainer,
    data: StageData,
    run: RunFolder,
    sharding: Sharding,
) -> None:
    """Write the stage's checkpoint, and note it as done; for all ranks."""
    best = trainer.best if trainer.is_sharded else None
    state, heads = ({}, {}) if best else trainer.whole_state()
    with written_to(run.path / name, trainer.accelerator):
        if not is_main():
            return
        if best:
            copy_checkpoint(best, run.path / name, recipe=recipe.to_yaml())
        else:
            save_checkpoint(
                built.model,
                built.processor,
                run.path / name,
                trained=trainer.trained,
                heads=heads,
                recipe=recipe.to_yaml(),
                state=state,
            )
        names = list(recipe.stages)
        record = record_of(recipe, name, trainer, data, sharding)
        run.finish(name, record, later=names[names.index(name) + 1 :])


def prepare_lora(model: AudioLLMForConditionalGeneration, stage: StageSettings) -> None:
    """New LoRA where the stage trains it and the model has none; what is there goes on if the recipe asks the same.

    Before that it is merged if the stage says so, and afterwards scaled.
    """
    if stage.merge_lora:
        if not has_lora(model):
            raise ValueError("merge_lora: the model has no LoRA to merge; no stage before this one trained any")
        merge_lora(model)
    for part, settings in stage.adapters.items():
        if not has_lora(model, part):
            add_lora(model, **settings.model_dump(), part=part)
            continue
        if getattr(stage, part) is not None:
            require_lora(model, **settings.model_dump(), part=part)
        there = getattr(model, CONFIGS[part])
        print(f"{LORA[part]} (r={there.r}, alpha={there.lora_alpha:g}) is there already and trains on")
    if stage.lora_scale is not None:
        set_lora_scale(model, stage.lora_scale)


def prepare_model(built: Built, stage: StageSettings) -> dict[str, int]:
    """LoRA and kernels where the stage wants them, a connector as loud as text, what trains; trainable counts."""
    model = built.model
    if stage.trainer.get("use_liger_kernel"):
        apply_liger(model.model.language_model, stage.trainer.get("liger_kernel_config"))
    prepare_lora(model, stage)
    if "connector" in stage.train and "connector" not in {*model.trained_parts, *(model.config.bases or {})}:
        match_connector_scale(model)
    return select_trainable(model, list(stage.train))


def check_objectives(recipe: Recipe, name: str, rows: list[Row]) -> None:
    """ValueError if an objective of the stage has a setting that it does not know, or the rows nothing for it."""
    known = objectives_of(recipe.model.is_two_towers)
    for objective, block in recipe.stages[name].objectives.items():
        key = f"stages.{name}.objectives.{objective}"
        try:
            settings = known[objective].Settings.model_validate(block.model_dump())
        except ValidationError as error:
            finding = error.errors()[0]
            raise recipe.error(".".join([key, *map(str, finding["loc"])]), finding["msg"]) from error
        if told := known[objective].refusal(settings, list(recipe.stages[name].train)):
            raise recipe.error(key, told)
        if not known[objective].has_items(settings, rows):
            raise recipe.error(key, "finds nothing to learn in the rows of the stage: " + known[objective].needs)


def refuse_frames(stage: StageSettings, key: str) -> None:
    """ValueError for a stage of a model that transformers has itself which asks for its encoder's frames."""
    asking = [f"objectives.{name}" for name in stage.objectives if OBJECTIVES[name].needs_frames]
    asking += ["data.cache_features"] * stage.data.cache_features
    if asking:
        raise ValueError(
            f"{key}.{asking[0]} works on the frames of an encoder of this package, and the model has its own; "
            "leave it out"
        )


def check_licences(recipe: Recipe, name: str, data: StageData) -> None:
    """RecipeError that names the sources whose licence the recipe's policy does not let in; tells what is unknown."""
    if told := breach(data.licences, recipe.license_policy):
        raise recipe.error("license_policy", f"is broken by stage {name}: {told}")
    if doubt := doubts(data.licences, recipe.license_policy):
        print(f"stage {name}: {doubt}")


def build_objectives(stage: StageSettings, built: Built) -> dict[str, Objective]:
    """The stage's objectives by name."""
    return {
        name: build_objective(name, block.model_dump(), model=built.model, processor=built.processor)
        for name, block in stage.objectives.items()
    }


def build_trainer(
    recipe: Recipe,
    name: str,
    built: Built,
    objectives: dict[str, Objective],
    data: StageData,
    run: RunFolder,
    sounds: SoundCache,
    sharding: Sharding,
    features: FeatureStore | None = None,
) -> StageTrainer:
    """The trainer of a stage."""
    stage = recipe.stages[name]
    with_text = any(objective.needs_text for objective in objectives.values())
    quarantine = run.quarantine(name)
    limits = Limits(stage.data.max_tokens, positions_of(built.model), stage.data.too_long)

    def recordings(rows: list[Row], groups: Any = None, augment: Augmenter | None = None) -> Recordings:
        found = recordings_of(built.model, stage)(
            rows,
            built.processor,
            seed=recipe.seed,
            questions_per_clip=stage.data.questions_per_clip,
            supervise=stage.data.supervise,
            with_text=with_text,
            sounds=sounds,
            features=features,
            share_audio=not isinstance(built.model, AudioTextModel) and built.model.layout == "branches",
            limits=limits,
            groups=groups,
            augment=augment,
            teacher_text=teacher_text_of(objectives),
        )
        if stage.data.measured:
            leave_out_too_long(found, quarantine, stage.data.max_bad_fraction)
        return found

    train = recordings(data.train, data.mixture, augmenter_of(recipe, name, built.processor.sampling_rate))
    trainer = StageTrainer(
        model=StageModel(built.model, objectives),
        processor=built.processor,
        recordings=train,
        sources=data.sources(train),
        validation={task: recordings(rows) for task, rows in by_task(data.validation, with_text).items()},
        collator=collator_of(built, objectives, stage.data.pack_tokens),
        learning_rates=stage.learning_rates,
        trained=set(built.model.trained_parts) | (set(stage.train) - {"lora", "encoder_lora"}),
        bad_rows=BadRows(quarantine, stage.data.max_bad_fraction),
        bad_steps=BadSteps(name, stage.max_bad_steps),
        batch_tokens=stage.data.batch_tokens,
        num_samples=stage.data.num_samples,
        group_by_length=stage.data.group_by_length,
        fsdp=sharding.fsdp,
        muon=stage.by_muon,
        args=training_arguments(recipe, name, run, bool(data.validation), sharding),
    )
    add_callbacks(trainer, recipe, name)
    return trainer


def add_callbacks(trainer: StageTrainer, recipe: Recipe, name: str) -> None:
    """What looks on while a stage trains: our progress in place of the library's, resume points, the check of text."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(StageProgress(name, trainer))
    trainer.saves_every = trainer.args.save_steps
    if every := more_resume_points(recipe.stages[name].trainer):
        trainer.saves_every = every
        trainer.add_callback(MoreResumePoints(every))
    if recipe.text_check:
        trainer.add_callback(TextCheck(name, trainer, text_rows(recipe)))


def teacher_text_of(objectives: Mapping[str, Objective]) -> str | None:
    """The field of a clip that a teacher reads in its place, where an objective has a teacher."""
    return next(filter(None, (objective.teacher_text for objective in objectives.values())), None)


def recordings_of(model: Any, stage: StageSettings) -> Callable[..., Recordings]:
    """The class of recordings that a stage learns from: pairs with a text for two towers."""
    if not isinstance(model, AudioTextModel):
        return Recordings
    settings: Any = Towers.Settings.model_validate(stage.objectives["contrastive"].model_dump())
    return partial(Pairs, words=settings.target)


def leave_out_too_long(recordings: Recordings, quarantine: Quarantine, max_fraction: float) -> None:
    """Measure recordings and list the rows that are too long for them; TooManyBadRows if they are too many."""
    bad, total = recordings.measure(), recordings.num_rows
    quarantine.add(bad)
    if bad:
        first = f"{bad[0]['origin']} {bad[0]['cause']}"
        print(f"{len(bad):,} of {total:,} rows are too long and left out; {first} (`max_tokens`, `too_long`)")
    if len(bad) > max_fraction * total:
        raise too_many(quarantine, len(bad), total, "rows", max_fraction)
    if not len(recordings):
        raise ValueError(f"all {total:,} rows are too long, so there is nothing to learn from; raise `max_tokens`")


def positions_of(model: AudioLLMForConditionalGeneration) -> int | None:
    """Positions that the language model knows, if it says so."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def collator_of(built: Built, objectives: dict[str, Objective], pack_tokens: int | None) -> Collator:
    """Batches as the language model takes them, with the objectives' targets.

    All clips of a micro-batch are in one sequence where attention skips what they do not see of each other.
    """
    targets = [objective.targets for objective in objectives.values()]
    if isinstance(built.model, AudioTextModel):
        return Collator(0, targets=targets)
    language_model: Any = built.model.model.language_model
    skips = language_model.config._attn_implementation in (BLOCKS, "flex_attention")
    return Collator(
        built.processor.tokenizer.pad_token_id or 0,
        layout=built.model.layout,
        hear=built.processor.features if isinstance(built.processor, NativeProcessor) else None,
        pack_tokens=pack_tokens or (sys.maxsize if skips else None),
        targets=targets,
    )


def training_arguments(
    recipe: Recipe, name: str, run: RunFolder, validates: bool, sharding: Sharding
) -> TrainingArguments:
    """The library's arguments: the recipe's keys, and ours on top."""
    given = dict(recipe.stages[name].trainer)
    if recipe.stages[name].by_muon:  # which takes AdamW's settings
        del given["optim"]
    ours: dict[str, Any] = {
        "output_dir": str(run.work(name)),
        "seed": recipe.seed,
        "remove_unused_columns": False,
        "deepspeed": sharding.deepspeed,
        "disable_tqdm": True,
        "use_liger_kernel": False,  # the language model alone has such kernels, and was given them
    }
    defaults: dict[str, Any] = {
        "report_to": ["tensorboard"],
        "save_total_limit": 2,
        "logging_steps": 20,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_nan_inf_filter": False,
        "ddp_find_unused_parameters": False,  # every rank runs all that trains, on silence if need be
    }
    strategy = given.get("eval_strategy", "steps")
    if validates and strategy != "no":
        defaults["eval_strategy"] = strategy
        defaults["eval_steps"] = given.get("eval_steps", given.get("save_steps", 500))
        if more_resume_points(given):  # which are not the library's: each validation is one, and these come between
            given["save_steps"] = defaults["eval_steps"]
        defaults["save_steps"] = defaults["eval_steps"]
        ours |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
        ours["save_strategy"] = strategy  # the best one must have been saved
    leave_cudnn_out()
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where it is installed, would wonder
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / "logs" / name)
    return TrainingArguments(**{**defaults, **given, **ours})


def more_resume_points(given: Mapping[str, Any]) -> float | None:
    """`save_steps` where it is no multiple of `eval_steps`: resume points beside those at each validation."""
    wanted, each = given.get("save_steps"), given.get("eval_steps")
    if wanted is None or each is None:
        return None
    whole = float(wanted).is_integer() and float(each).is_integer()
    return None if whole and wanted % each == 0 else float(wanted)


def describe(name: str, trainable: Mapping[str, int], trainer: StageTrainer) -> None:
    """One line that says what a stage does."""
    parts = ", ".join(f"{part} {count:,}" for part, count in trainable.items())
    objectives = ", ".join(trainer.accelerator.unwrap_model(trainer.model).objectives)
    groups = trainer.recordings.groups
    how = " (of a stream: rows about one count as one where they are neighbours)" if isinstance(groups, Mixture) else ""
    print(f"stage {name}: trains {parts} parameters by {objectives}; {len(trainer.recordings):,} recordings{how}")
    if trainer.recordings.augment is not None:
        print(f"stage {name}: clips are augmented: {trainer.recordings.augment}")
    if trainer.batch_tokens:
        tokens = tokens_of(trainer.recordings)
        if over := int((tokens > trainer.batch_tokens).sum()):
            print(
                f"stage {name}: {over:,} of {len(tokens):,} recordings take more than data.batch_tokens="
                f"{trainer.batch_tokens:,}, the longest {tokens.max():,}; each is a micro-batch of its own"
            )


def tokens_of(recordings: Recordings) -> np.ndarray:
    """Tokens of each measured recording; of streams, of the first ones."""
    if isinstance(recordings.groups, Mixture):
        return recordings.groups.tokens(np.arange(min(len(recordings), 10_000)))
    return np.array([recordings.num_tokens((0, number)) for number in range(len(recordings))])


def seconds_before(resume_point: str | None) -> float:
    """What a stage had taken when its last figures before a resume point were logged."""
    if resume_point is None:
        return 0.0
    history = json.loads((Path(resume_point) / STATE).read_text())["log_history"]
    return max((entry.get("seconds", 0.0) for entry in history), default=0.0)


def record_of(recipe: Recipe, name: str, trainer: StageTrainer, data: StageData, sharding: Sharding) -> dict[str, Any]:
    """What run.json keeps of a stage."""
    history, bad_rows = trainer.state.log_history, trainer.bad_rows.quarantine.rows
    return {
        "settings": stage_settings(recipe, name, sharding),
        "seconds": round(time.perf_counter() - trainer.started, 1),
        "steps": trainer.state.global_step,
        "loss": [(entry["step"], entry["loss"]) for entry in history if "loss" in entry],
        "validation": [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry],
        "problems": [sentence(row) for row in bad_rows if row["found"] == "hearing"],
        "rows_left_out": sum(row["found"] != "hearing" for row in bad_rows),
        "bad_steps": trainer.bad_steps.found,
        "licences": [(license, source, rows) for (license, source), rows in data.licences.items()],
        "hours": hours_of(trainer.recordings),
        "augmentation": str(trainer.recordings.augment or ""),
        "text_check": text_figures(history, [check.title for check in recipe.text_check]),
    }


def hours_of(recordings: Recordings) -> float | None:
    """Hours of sound of a stage's recordings, once each; None where that is not known without reading."""
    if not isinstance(recordings.groups, list):
        return None
    seconds = [recordings.seconds(number) for number, rows in enumerate(recordings.groups) if rows[0].clips]
    return round(sum(seconds) / 3600, 3) if seconds and all(seconds) else None
