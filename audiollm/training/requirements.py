"""What a recipe needs beside its files: libraries, public checkpoints, and engines that can do what it asks."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from audiollm.models.encoders import encoder_class
from audiollm.models.encoders.registry import names_itself
from audiollm.models.locate import unreachable
from audiollm.models.quantize import check_scheme, require_bitsandbytes
from audiollm.models.settings import nearest
from audiollm.recipe import Recipe, training_paths
from audiollm.training.kernels import require_liger
from audiollm.training.memory import needs_bitsandbytes
from audiollm.training.ranks import is_main


class Sharding(NamedTuple):
    """How ranks share a model: DeepSpeed by its settings file, FSDP2, or neither."""

    deepspeed: str | None = None
    fsdp: bool = False

    @property
    def option(self) -> str:
        """What asked for it on the command line; empty where nothing did."""
        return "--fsdp" if self.fsdp else "--deepspeed" if self.deepspeed else ""


def require_libraries(recipe: Recipe) -> None:
    """ImportError or ValueError, with the way out, if the recipe wants bitsandbytes or Liger and has them not."""
    check_scheme(recipe.model.quantize if recipe.model.llm is None else recipe.model.llm.quantize)
    for stage in recipe.stages.values():
        optimizer = str(stage.trainer.get("optim", ""))
        if needs_bitsandbytes(optimizer):
            require_bitsandbytes(f"trainer.optim={optimizer}")
        if stage.trainer.get("use_liger_kernel"):
            require_liger()


def require_parts(recipe: Recipe) -> None:
    """RecipeError, without the Hub's retries, if a public checkpoint that the model is made of cannot be had."""
    reader, key = recipe.model.reader, recipe.model.reader_key
    model_type = (reader.config or {}).get("model_type") if reader else None
    if model_type is not None and model_type not in CONFIG_MAPPING_NAMES:
        near = nearest(model_type, CONFIG_MAPPING_NAMES)
        raise recipe.error(f"{key}.config.model_type", f"{model_type!r} is not of transformers; {near}")
    refuse_unknown_sizes(recipe)
    # what only a class's own loader can read, be it a user's or another package's, that loader asks for
    encoders = [one for one in recipe.model.encoders if one.name is None or names_itself(one.name)]
    blocks = [*(("model.encoder", one) for one in encoders), (key, reader)]
    for part, block in blocks:
        if block is None or block.checkpoint is None:
            continue
        cause = unreachable(block.checkpoint, block.revision)
        if cause:
            raise recipe.error(
                f"{part}.checkpoint",
                f"is {block.checkpoint}, which is not on this machine ({cause}); give a local folder, "
                "or bring a cache that holds it and set HF_HUB_OFFLINE=1",
            )


def refuse_repeated(recipe: Recipe) -> None:
    """ValueError where recordings come twice and the recipe refuses that; of several ranks the first one looks."""
    if not is_main() or not (recipe.refuse_overlap or recipe.refuse_duplicates):
        return
    from audiollm.curation.overlap import refuse_duplicates, refuse_overlap

    folder = Path(recipe.cache, "fingerprints")
    if recipe.refuse_overlap:
        refuse_overlap(training_paths(recipe), [entry.path for entry in recipe.evaluate], folder)
    if recipe.refuse_duplicates:
        refuse_duplicates(training_paths(recipe), folder)


LEGACY_SIZES = {"rope_theta", "rope_scaling"}
"""Keys of older configs, which transformers still takes."""


def refuse_unknown_sizes(recipe: Recipe) -> None:
    """RecipeError for a key under `config:` that the configuration of that part does not have."""
    several = isinstance(recipe.model.encoder, list)
    for number, one in enumerate(recipe.model.encoders):
        cls = encoder_class(one.name or "whisper")
        known = sizes_of(cls.config_class) | set(cls.more_sizes)
        refuse_unknown_keys(recipe, f"model.encoder{f'.{number}' * several}.config", one.config, known)
    reader = recipe.model.reader
    if reader is not None and reader.config is not None:
        known = sizes_of(CONFIG_MAPPING[reader.config["model_type"]]) | LEGACY_SIZES | {"model_type"}
        refuse_unknown_keys(recipe, f"{recipe.model.reader_key}.config", reader.config, known)


def refuse_unknown_keys(recipe: Recipe, where: str, sizes: Mapping[str, Any] | None, known: Collection[str]) -> None:
    """RecipeError that names the nearest known key."""
    for key in sizes or {}:
        if key not in known:
            raise recipe.error(f"{where}.{key}", f"is not a size of this model; {nearest(key, known)}")


def sizes_of(config_class: Any) -> set[str]:
    """The keys that a configuration knows, by any of their names."""
    return {*config_class().to_dict(), *config_class.attribute_map}


def refuse_sharded_bits(scheme: str | None, sharding: Sharding) -> None:
    """ValueError for a quantised language model that ranks are to share: its weights cannot be cut."""
    if scheme and sharding.option:
        raise ValueError(
            f"the language model is held in {scheme}, which trains under DDP alone; leave out {sharding.option}"
        )


def refuse_sharded_muon(recipe: Recipe, names: list[str], sharding: Sharding) -> None:
    """RecipeError for a stage whose optimizer needs whole matrices where ranks hold pieces of them."""
    for name in names:
        if sharding.option and recipe.stages[name].by_muon:
            raise recipe.error(
                f"stages.{name}.trainer.optim",
                f"is muon, which needs whole matrices and trains under DDP alone; leave out {sharding.option}",
            )


def refuse_sharded_towers(recipe: Recipe, sharding: Sharding) -> None:
    """RecipeError for two towers that ranks are to share: every rank needs the whole of both."""
    if recipe.model.is_two_towers and sharding.option:
        raise recipe.error("model.kind", f"is two_towers, which train under DDP alone; leave out {sharding.option}")
